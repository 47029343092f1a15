//! virtio socket device.
use std::io::{self, Read, Write};
use std::time::Duration;

use super::virtio::{Activation, DeviceFault, VirtioDevice};

/// A vsock error.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The machine stopped.
    #[error("the machine stopped")]
    MachineStopped,
}
/// Host side.
#[derive(Clone)]
pub struct VsockHost;
impl VsockHost {
    /// Closes all.
    pub fn close_all(&self, _: &str) {}
    /// Connects.
    pub fn connect(&self, _: u32, _: Duration) -> Result<VsockStream, VsockError> {
        Err(VsockError::MachineStopped)
    }
    /// Listens.
    pub fn listen(&self, _: u32) -> Result<VsockListener, VsockError> {
        Err(VsockError::MachineStopped)
    }
}
/// A listener.
pub struct VsockListener;
impl VsockListener {
    /// Accepts.
    pub fn accept(&self, _: Option<Duration>) -> Result<VsockStream, VsockError> {
        Err(VsockError::MachineStopped)
    }
}
/// A stream.
pub struct VsockStream;
impl VsockStream {
    /// Clones.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self)
    }
    /// Sets the timeout.
    pub fn set_read_timeout(&self, _: Option<Duration>) {}
    /// Sets the timeout.
    pub fn set_write_timeout(&self, _: Option<Duration>) {}
}
impl Read for VsockStream {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}
impl Write for VsockStream {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Ok(0)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
/// The device.
pub struct VsockDevice;
impl VsockDevice {
    /// New.
    pub fn new(_: u64) -> (Self, VsockHost) {
        (Self, VsockHost)
    }
}
impl VirtioDevice for VsockDevice {
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
