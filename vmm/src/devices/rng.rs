//! virtio entropy device.

use super::virtio::{Activation, DeviceFault, VirtioDevice};

/// Rng.
pub struct Rng;
impl Rng {
    /// New.
    pub fn new() -> Self {
        Self
    }
}
impl VirtioDevice for Rng {
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
