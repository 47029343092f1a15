//! Device models. All input here comes from the guest and is treated as hostile.

pub mod block;
mod bus;
mod checkpoint;
mod console;
mod foreign;
pub mod rng;
mod serial;
mod set;
pub mod virtio;
pub mod vsock;

pub(crate) use bus::Bus;
pub(crate) use checkpoint::Checkpoint;
pub use checkpoint::Mark;
pub(crate) use console::Console;
pub use console::ConsoleSnapshot;
pub(crate) use serial::Com1;
pub use set::DeviceStateError;
pub(crate) use set::{DeviceSet, DeviceState};
