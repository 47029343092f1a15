//! Device models. All input here comes from the guest and is treated as hostile.
//!
//! Which devices a machine has is one list, [`list::DEVICES`]. A new device is a folder here that
//! implements [`virtio::model::VirtioModel`], and one line in that list.

pub mod block;
mod builder;
mod bus;
mod checkpoint;
mod console;
mod device;
mod fault;
mod foreign;
mod irq;
mod list;
mod platform;
pub mod rng;
mod serial;
mod set;
mod state_error;
pub mod virtio;
pub mod vsock;

pub(crate) use builder::{BuildError, Builder, ByType};
pub(crate) use bus::Bus;
pub(crate) use checkpoint::Checkpoint;
pub use checkpoint::Mark;
pub(crate) use console::Console;
pub use console::ConsoleSnapshot;
pub use device::DeviceStateError;
pub(crate) use device::{DeviceState, MachineShape};
pub(crate) use list::{DEVICES, virtio_slots};
pub(crate) use set::{DeviceSet, DeviceStates};
