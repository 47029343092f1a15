//! A virtio device with its transport, as one device of the list.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use virtio_queue::QueueState;

use super::transport::{MmioTransport, Slot, Transport, TransportState};
use super::{FaultLatch, Interrupt, VirtioDevice};
use crate::arch::Named;
use crate::devices::builder::{BuildError, Builder, ByType};
use crate::devices::bus::BusDevice;
use crate::devices::device::{Device, DeviceState, DeviceStateError, MachineShape, typed};
use crate::mismatch::{self, Mismatch};

/// What a device model adds to [`VirtioDevice`] to be in the list of devices.
pub trait VirtioModel: VirtioDevice + Sized + 'static {
    /// [`DeviceState::kind`].
    const KIND: &'static str;
    /// [`DeviceState::version`]. It also covers the form of the transport's registers.
    const VERSION: u32;
    /// What the device is captured as. Registers of the transport are not part of it.
    type State: ModelState;

    /// True when a machine of this shape has the device.
    fn is_present(_: MachineShape) -> bool {
        true
    }

    /// Makes a device that has not been activated.
    ///
    /// # Errors
    ///
    /// What it needs from the host is missing.
    fn create(resources: &mut ByType) -> Result<Self, String>;

    /// Hands out typed access to the device.
    fn hand_out(_: &Arc<Mutex<Self>>, _: &mut ByType) {}

    /// [`Device::quiesce`].
    fn quiesce(&self) {}

    /// [`Device::resume`].
    fn resume(&self) {}

    /// [`Device::capture`].
    fn capture(&self) -> Self::State;

    /// [`Device::restore`]. The transport is restored already: the device is active or not, as in
    /// the state.
    ///
    /// # Errors
    ///
    /// The device cannot be in this state.
    fn restore(&mut self, state: &Self::State) -> Result<(), DeviceStateError>;

    /// [`Device::corrupt`].
    ///
    /// # Errors
    ///
    /// The device cannot be restored.
    #[cfg(any(test, feature = "testing"))]
    fn corrupt(&mut self) -> Result<bool, DeviceStateError> {
        Ok(false)
    }
}

/// A captured state of a device model.
pub trait ModelState:
    Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Positions in the device's queues; `None` before activation.
    fn queues(&self) -> Option<Vec<QueueState>>;

    /// [`DeviceState::check`], without the queues.
    ///
    /// # Errors
    ///
    /// What contradicts what.
    fn check(&self, _: MachineShape) -> Result<(), &'static str> {
        Ok(())
    }

    /// [`DeviceState::describe`], without the transport.
    fn describe(&self, kind: &'static str) -> Vec<Named> {
        vec![(kind.to_owned(), format!("{self:?}"))]
    }
}

/// A device in its slot of the transport.
pub struct VirtioSlot<D> {
    transport: Arc<Mutex<dyn Transport>>,
    device: Arc<Mutex<D>>,
}

impl<D: VirtioModel> VirtioSlot<D> {
    /// Makes the device and puts it behind the transport's next slot.
    ///
    /// # Errors
    ///
    /// What the device needs from the host is missing.
    pub fn build(builder: &mut Builder<'_>) -> Result<Self, BuildError> {
        let failed = |reason| BuildError { device: D::KIND, reason };
        let device = D::create(&mut builder.resources).map_err(failed)?;
        let device = Arc::new(Mutex::new(device));
        D::hand_out(&device, &mut builder.handles);
        let slot = Slot(builder.slots);
        builder.slots = builder.slots.saturating_add(1);
        let interrupt = Arc::new(Interrupt::new(builder.line(slot.irq())));
        let faults = Arc::new(FaultLatch::new(Arc::clone(&interrupt), Arc::clone(&builder.faults)));
        let ram = Arc::clone(&builder.ram);
        let transport = MmioTransport::new(Arc::clone(&device) as _, ram, interrupt, faults);
        let transport = Arc::new(Mutex::new(transport));
        let on_bus: Arc<dyn BusDevice> = Arc::clone(&transport) as _;
        builder.bus.add_mmio(slot.window(), on_bus);
        Ok(Self { transport, device })
    }

    fn device(&self) -> MutexGuard<'_, D> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transport(&self) -> MutexGuard<'_, dyn Transport + 'static> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: VirtioModel> Device for VirtioSlot<D> {
    fn quiesce(&self) {
        self.device().quiesce();
    }

    fn resume(&self) {
        self.device().resume();
    }

    fn capture(&self) -> Result<Box<dyn DeviceState>, DeviceStateError> {
        let transport = self.transport().capture().map_err(DeviceStateError::of(D::KIND))?;
        let device = self.device().capture();
        Ok(Box::new(VirtioState::<D> { transport, device }))
    }

    fn restore(&self, state: &dyn DeviceState) -> Result<(), DeviceStateError> {
        let state: &VirtioState<D> = typed(D::KIND, state)?;
        // The transport first: it decides whether the device is active.
        self.transport().restore(&state.transport).map_err(DeviceStateError::of(D::KIND))?;
        self.device().restore(&state.device)
    }

    #[cfg(any(test, feature = "testing"))]
    fn corrupt(&self) -> Result<bool, DeviceStateError> {
        self.device().corrupt()
    }
}

/// A captured state of a device and of its transport.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct VirtioState<D: VirtioModel> {
    transport: TransportState,
    device: D::State,
}

impl<D: VirtioModel> VirtioState<D> {
    /// The device's half.
    pub fn device(&self) -> &D::State {
        &self.device
    }
}

impl<D: VirtioModel> Debug for VirtioState<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(D::KIND)
            .field("transport", &self.transport)
            .field("device", &self.device)
            .finish()
    }
}

impl<D: VirtioModel> DeviceState for VirtioState<D> {
    fn kind(&self) -> &'static str {
        D::KIND
    }

    fn version(&self) -> u32 {
        D::VERSION
    }

    fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }

    fn compare(&self, now: &dyn DeviceState) -> Vec<Mismatch<&'static str>> {
        let Ok(now) = typed::<Self>(D::KIND, now) else {
            let words = (D::KIND.to_owned(), now.kind().to_owned());
            return vec![Mismatch::new("device list", words)];
        };
        let transport = mismatch::of_values(self.transport.name(), &self.transport, &now.transport);
        let device = mismatch::of_values(D::KIND, &self.device, &now.device);
        transport.into_iter().chain(device).collect()
    }

    fn describe(&self) -> Vec<Named> {
        let transport = self.transport.name();
        let mut named =
            vec![(format!("{transport} of {}", D::KIND), format!("{:?}", self.transport))];
        named.extend(self.device.describe(D::KIND));
        named
    }

    fn check(&self, shape: MachineShape) -> Result<(), &'static str> {
        if !self.transport.fits(self.device.queues().as_deref()) {
            return Err("the device and its registers disagree on its queues");
        }
        self.device.check(shape)
    }
}
