//! virtio-mmio transport.
use std::sync::{Arc, Mutex};

use super::{FaultLatch, Interrupt, VirtioDevice};
use crate::memory::GuestRam;

/// Transport.
pub struct MmioTransport;
impl MmioTransport {
    /// New.
    pub fn new(
        _: Arc<Mutex<dyn VirtioDevice>>,
        _: Arc<GuestRam>,
        _: Arc<Interrupt>,
        _: Arc<FaultLatch>,
    ) -> Self {
        Self
    }
    /// Read.
    pub fn read(&mut self, _: u64, _: &mut [u8]) {}
    /// Write.
    pub fn write(&mut self, _: u64, _: &[u8]) {}
}
