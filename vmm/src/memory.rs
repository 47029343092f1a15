//! Guest-physical memory: where things lie, and the mapping that holds them.

pub mod layout;
mod private;
mod ram;
mod sealed;

pub use private::PrivateMapping;
pub use ram::{GuestRam, MAX_MEMORY_MIB, MIN_MEMORY_MIB, MemoryError, allocate, host_address};
pub use sealed::SealedMemory;
