//! All devices of a machine: captured together, restored together.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::block::{Block, DiskImage};
use super::builder::{BuildError, Builder};
use super::bus::Bus;
use super::device::{Device, DeviceState, DeviceStateError, MachineShape};
use super::list::DeviceKind;
#[cfg(test)]
use super::serial::Com1;
use super::state_error::StateError;
use crate::mismatch::Mismatch;

/// Most devices that a file may hold the states of. Bounds what a file makes this process allocate.
const MAX_DEVICES: u32 = 64;

/// Every device of a machine, in the order of the list.
pub struct DeviceSet {
    devices: Vec<Box<dyn Device>>,
    /// Where the guest reaches them.
    pub bus: Arc<Bus>,
    block: Option<Arc<Mutex<Block>>>,
    /// The serial port, for tests that hold its lock.
    #[cfg(test)]
    pub com1: Option<Arc<Mutex<Com1>>>,
}

impl DeviceSet {
    /// Builds all devices of `list` that a machine of this shape has.
    ///
    /// # Errors
    ///
    /// A device lacks what it needs from the host.
    pub fn build(
        list: &[DeviceKind],
        shape: MachineShape,
        mut builder: Builder<'_>,
    ) -> Result<Self, BuildError> {
        let present = list.iter().filter(|kind| (kind.is_present)(shape));
        let devices = present.map(|kind| (kind.build)(&mut builder)).collect::<Result<_, _>>()?;
        let Builder { bus, mut handles, .. } = builder;
        Ok(Self {
            devices,
            bus: Arc::new(bus),
            block: handles.take(),
            #[cfg(test)]
            com1: handles.take(),
        })
    }

    /// Keeps host threads away from guest memory. On return none reaches it for a device until
    /// [`DeviceSet::resume`].
    pub fn quiesce(&self) {
        for device in &self.devices {
            device.quiesce();
        }
    }

    /// Undoes [`DeviceSet::quiesce`].
    pub fn resume(&self) {
        for device in &self.devices {
            device.resume();
        }
    }

    /// Reads everything but the disk's content. No vCPU may run and devices must be quiesced.
    ///
    /// # Errors
    ///
    /// A device has stopped.
    pub fn capture(&self) -> Result<DeviceStates, DeviceStateError> {
        let states = self.devices.iter().map(|device| device.capture());
        Ok(DeviceStates(states.collect::<Result<_, _>>()?))
    }

    /// Restores everything but the disk's content. No vCPU may run and devices must be quiesced.
    /// Guest memory is restored before this and interrupt controllers after it: a device may raise
    /// its interrupt meanwhile.
    ///
    /// # Errors
    ///
    /// The states are of other devices, or a device cannot be in its state.
    pub fn restore(&self, states: &DeviceStates) -> Result<(), DeviceStateError> {
        if self.devices.len() != states.0.len() {
            return Err(DeviceStateError::of("device list")(StateError::Kind));
        }
        for (device, state) in self.devices.iter().zip(&states.0) {
            device.restore(&**state)?;
        }
        Ok(())
    }

    /// Makes what the disk holds now its base, for golden states to share.
    ///
    /// # Errors
    ///
    /// The overlay cannot be read, or no memory can be had for the new base.
    pub fn freeze_disk(&self) -> Result<Option<Arc<DiskImage>>, DeviceStateError> {
        self.block()
            .map(|mut block| block.overlay_mut().freeze())
            .transpose()
            .map_err(DeviceStateError::Disk)
    }

    /// Forgets every write to the disk; returns how many blocks that were.
    ///
    /// # Errors
    ///
    /// The overlay cannot be mapped anew.
    pub fn discard_disk_writes(&self) -> Result<usize, DeviceStateError> {
        match self.block() {
            Some(mut block) => block.overlay_mut().discard().map_err(DeviceStateError::Disk),
            None => Ok(0),
        }
    }

    /// Changes the state of the first device that has one to change. False when there is none.
    ///
    /// # Errors
    ///
    /// The device cannot be captured or restored.
    #[cfg(any(test, feature = "testing"))]
    pub fn corrupt(&self) -> Result<bool, DeviceStateError> {
        for device in &self.devices {
            if device.corrupt()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The disk.
    pub fn block(&self) -> Option<MutexGuard<'_, Block>> {
        self.block.as_ref().map(|block| block.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Everything about a machine's devices that its guest could notice, one state a device. The
/// disk's content is in the image beside it.
#[derive(Debug)]
pub struct DeviceStates(Vec<Box<dyn DeviceState>>);

/// One device's state in a snapshot file.
#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    kind: &'a str,
    version: u32,
    bytes: &'a [u8],
}

/// Why states in a file are refused.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The list itself cannot be read.
    #[error("{0}")]
    Form(postcard::Error),
    /// More devices than a machine can have.
    #[error("{0} devices, more than {MAX_DEVICES}")]
    TooMany(u32),
    /// Bytes follow the last device.
    #[error("there is more in it than belongs there")]
    Trailing,
    /// A device that this program does not have.
    #[error("device `{0}` is unknown to this program")]
    UnknownKind(String),
    /// A device whose state has another form.
    #[error("device `{kind}` has version {file}, this program reads version {here}")]
    Version {
        /// The device.
        kind: &'static str,
        /// The file's version.
        file: u32,
        /// The version that this program reads.
        here: u32,
    },
    /// The state of a device cannot be read.
    #[error("device `{kind}`: {reason}")]
    Device {
        /// The device.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Other devices than a machine of this shape has.
    #[error("its devices are {found}; this machine has {expected}")]
    Devices {
        /// The file's devices.
        found: String,
        /// What the machine has.
        expected: String,
    },
}

impl DeviceStates {
    /// The states in the form of snapshot files.
    ///
    /// # Errors
    ///
    /// A state cannot be serialised.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let mut out = postcard::to_stdvec(&count)?;
        for state in &self.0 {
            let bytes = state.encode()?;
            let payload = Payload { kind: state.kind(), version: state.version(), bytes: &bytes };
            out = postcard::to_extend(&payload, out)?;
        }
        Ok(out)
    }

    /// Reads the states of a machine of this shape from all of `bytes`, and checks them.
    ///
    /// # Errors
    ///
    /// The bytes are no such states. Unknown devices and versions are named.
    pub fn decode(
        list: &[DeviceKind],
        shape: MachineShape,
        bytes: &[u8],
    ) -> Result<Self, DecodeError> {
        let (count, mut rest) =
            postcard::take_from_bytes::<u32>(bytes).map_err(DecodeError::Form)?;
        if count > MAX_DEVICES {
            return Err(DecodeError::TooMany(count));
        }
        let mut states = Vec::new();
        for _ in 0..count {
            let (payload, next) =
                postcard::take_from_bytes::<Payload<'_>>(rest).map_err(DecodeError::Form)?;
            states.push(decode_one(list, &payload)?);
            rest = next;
        }
        if !rest.is_empty() {
            return Err(DecodeError::Trailing);
        }
        let present = list.iter().filter(|kind| (kind.is_present)(shape)).map(|kind| kind.name);
        let expected: Vec<&str> = present.collect();
        let found: Vec<&str> = states.iter().map(|state| state.kind()).collect();
        if found != expected {
            let (found, expected) = (found.join(", "), expected.join(", "));
            return Err(DecodeError::Devices { found, expected });
        }
        for state in &states {
            let refused = |reason: &str| DecodeError::Device {
                kind: state.kind(),
                reason: reason.to_owned(),
            };
            state.check(shape).map_err(refused)?;
        }
        Ok(Self(states))
    }

    /// Every part of a device in which `now` is not as this state.
    pub fn compare(&self, now: &Self) -> Vec<Mismatch<&'static str>> {
        let pairs = self.0.iter().zip(&now.0);
        let mut found: Vec<_> = pairs.flat_map(|(then, now)| then.compare(&**now)).collect();
        let (then, now) = (self.0.len(), now.0.len());
        if then != now {
            let words = (format!("{then} devices"), format!("{now} devices"));
            found.push(Mismatch::new("device list", words));
        }
        found
    }

    /// The states, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = &dyn DeviceState> {
        self.0.iter().map(|state| &**state)
    }

    /// The first state of this type.
    pub fn find<T: Any>(&self) -> Option<&T> {
        self.iter().find_map(|state| (state as &dyn Any).downcast_ref())
    }

    /// Takes out the states of one kind of device.
    #[cfg(test)]
    pub fn remove(&mut self, kind: &str) {
        self.0.retain(|state| state.kind() != kind);
    }
}

impl PartialEq for DeviceStates {
    fn eq(&self, other: &Self) -> bool {
        self.compare(other).is_empty()
    }
}

fn decode_one(
    list: &[DeviceKind],
    payload: &Payload<'_>,
) -> Result<Box<dyn DeviceState>, DecodeError> {
    let kind = list.iter().find(|kind| kind.name == payload.kind);
    let kind = kind.ok_or_else(|| DecodeError::UnknownKind(payload.kind.to_owned()))?;
    if payload.version != kind.version {
        let (file, here) = (payload.version, kind.version);
        return Err(DecodeError::Version { kind: kind.name, file, here });
    }
    let failed = |reason| DecodeError::Device { kind: kind.name, reason };
    (kind.decode)(payload.bytes).map_err(failed)
}

#[cfg(test)]
mod tests;
