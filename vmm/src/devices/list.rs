//! The one list of devices. A device is a folder beside this file and one line here.

use serde::de::DeserializeOwned;

use super::block::Block;
use super::builder::{BuildError, Builder, PlatformDevice};
use super::device::{Device, DeviceState, MachineShape};
use super::rng::Rng;
use super::serial::SerialPort;
use super::virtio::model::{VirtioModel, VirtioSlot, VirtioState};
use super::vsock::VsockDevice;

/// Every device that a machine can have, in the order in which they are built, captured and
/// restored. Virtio devices get their slots in this order: the guest sees it.
pub const DEVICES: &[DeviceKind] = &[
    DeviceKind::platform::<SerialPort>(),
    DeviceKind::virtio::<Block>(),
    DeviceKind::virtio::<VsockDevice>(),
    DeviceKind::virtio::<Rng>(),
];

/// Reads a state from all of some bytes, or says what is wrong with them.
type Decode = fn(&[u8]) -> Result<Box<dyn DeviceState>, String>;

/// One line of the list: how a device comes to be, and how its state is read from a file.
#[derive(Clone, Copy)]
pub struct DeviceKind {
    /// [`DeviceState::kind`] of all devices of this kind.
    pub name: &'static str,
    /// The version of its state that this program writes and reads.
    pub version: u32,
    /// The device takes a slot of the virtio transport.
    pub is_virtio: bool,
    /// True when such a machine has the device.
    pub is_present: fn(MachineShape) -> bool,
    pub(super) build: fn(&mut Builder<'_>) -> Result<Box<dyn Device>, BuildError>,
    pub(super) decode: Decode,
}

impl DeviceKind {
    /// A device behind a virtio transport.
    pub const fn virtio<D: VirtioModel>() -> Self {
        Self {
            name: D::KIND,
            version: D::VERSION,
            is_virtio: true,
            is_present: D::is_present,
            build: |builder| Ok(Box::new(VirtioSlot::<D>::build(builder)?)),
            decode: decode::<VirtioState<D>>,
        }
    }

    /// A device without a transport, which every machine has.
    pub const fn platform<D: PlatformDevice<State: DeserializeOwned>>() -> Self {
        Self {
            name: D::KIND,
            version: D::VERSION,
            is_virtio: false,
            is_present: |_| true,
            build: |builder| {
                let failed = |reason| BuildError { device: D::KIND, reason };
                Ok(Box::new(D::build(builder).map_err(failed)?))
            },
            decode: decode::<D::State>,
        }
    }
}

/// How many slots of the virtio transport a machine of this shape uses.
pub fn virtio_slots(list: &[DeviceKind], shape: MachineShape) -> u32 {
    let virtio = list.iter().filter(|kind| kind.is_virtio && (kind.is_present)(shape));
    u32::try_from(virtio.count()).unwrap_or(u32::MAX)
}

fn decode<S: DeviceState + DeserializeOwned>(bytes: &[u8]) -> Result<Box<dyn DeviceState>, String> {
    match postcard::take_from_bytes::<S>(bytes) {
        Ok((state, [])) => Ok(Box::new(state)),
        Ok(_) => Err("there is more in it than belongs there".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
