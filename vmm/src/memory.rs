//! Guest-physical memory: where things lie, and the mapping that holds them.

mod block_hashes;
mod dirty_map;
mod golden;
pub mod merkle;
mod page_table;
mod private;
mod ram;
mod sealed;
mod zero;

pub use block_hashes::BlockHashes;
pub(crate) use block_hashes::leaf_of;
pub(crate) use dirty_map::WORD_BITS;
pub use dirty_map::{DirtyMap, PAGE_BYTES};
pub use golden::{GoldenMemory, GoldenRegion};
pub use page_table::{PageTable, open_page_tables};
pub use private::PrivateMapping;
pub use ram::{GuestRam, MAX_MEMORY_MIB, MIN_MEMORY_MIB, MemoryError, allocate, host_address};
pub use sealed::SealedMemory;
pub(crate) use zero::is_zero;
