//! virtio block device (virtio 1.2, section 5.2) over a copy-on-write disk.
//!
//! The base image is sealed memory, shared by every machine. Each machine writes to an overlay of
//! its own, block by block, and the overlay can be thrown away for what its dirty blocks cost.
//! Every block has a hash that says what it must read as, and is checked before the guest sees it:
//! a request for a block that reads differently fails, and is remembered.

mod device;
mod image;
mod overlay;
mod request;

pub use device::Block;
pub use image::{DiskError, DiskImage, SECTOR_BYTES};
#[cfg(any(test, feature = "testing", feature = "fuzzing"))]
pub use overlay::BLOCK_BYTES;
pub use overlay::{Damage, Overlay};

#[cfg(test)]
mod tests;
