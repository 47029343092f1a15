//! The mapping that backs guest RAM.

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;

/// Guest RAM. Writes that devices make through [`vm_memory::Bytes`] are recorded in its bitmap,
/// one bit per 4 KiB page: the half of the dirty set that KVM's dirty log does not see.
pub type GuestRam = GuestMemoryMmap<AtomicBitmap>;
