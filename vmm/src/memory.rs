//! Guest-physical memory: where things lie, and the mapping that holds them.

mod dirty_map;
mod golden;
mod leaves;
pub mod merkle;
mod page_table;
mod private;
mod ram;
mod sealed;
mod zero;

pub(crate) use dirty_map::WORD_BITS;
pub use dirty_map::{DirtyMap, PAGE_BYTES};
pub use golden::{GoldenMemory, GoldenRegion};
pub use leaves::Leaves;
pub(crate) use leaves::leaf_of;
pub use page_table::PageTable;
pub use private::PrivateMapping;
pub use ram::{GuestRam, MAX_MEMORY_MIB, MIN_MEMORY_MIB, MemoryError, allocate, host_address};
pub use sealed::SealedMemory;
pub(crate) use zero::is_zero;
