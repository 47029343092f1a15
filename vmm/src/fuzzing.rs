//! Device models and guest memory by themselves, for fuzz targets.

pub use crate::devices::block::{BLOCK_BYTES, Block, Overlay};
pub use crate::devices::rng::Rng;
pub use crate::devices::virtio::transport::MmioTransport;
pub use crate::devices::virtio::{FaultLatch, Interrupt, IrqLine, VirtioDevice};
pub use crate::devices::vsock::{VsockDevice, VsockState};
pub use crate::memory::GuestRam;
