//! virtio block device.
use std::path::Path;
use std::sync::Arc;

use super::virtio::{Activation, DeviceFault, VirtioDevice};

/// A disk error.
#[derive(Debug, thiserror::Error)]
#[error("disk")]
pub struct DiskError;
/// A disk image.
pub struct DiskImage;
impl DiskImage {
    /// Opens.
    pub fn open(_: &Path) -> Result<Self, DiskError> {
        Ok(Self)
    }
}
/// An overlay.
pub struct Overlay;
impl Overlay {
    /// New.
    pub fn new(_: Arc<DiskImage>) -> Result<Self, DiskError> {
        Ok(Self)
    }
}
/// A block device.
pub struct Block;
impl Block {
    /// New.
    pub fn new(_: Overlay) -> Self {
        Self
    }
}
impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        2
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &[]
    }
    fn read_config(&self, _: u64, _: &mut [u8]) {}
    fn activate(&mut self, _: Activation) -> Result<(), DeviceFault> {
        Ok(())
    }
    fn notify(&mut self, _: u16) -> Result<(), DeviceFault> {
        Ok(())
    }
    fn reset(&mut self) {}
}
