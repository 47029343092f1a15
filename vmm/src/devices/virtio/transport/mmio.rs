//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2).
//!
//! Registers take effect only in the order section 3.1.1 prescribes. Everything else is refused
//! and counted: above all, a queue cannot be moved once the device works on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::debug;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::{Transport, TransportState};
use crate::devices::virtio::{
    Activation, DeviceFault, FaultLatch, Interrupt, StateError, VirtioDevice,
};
use crate::memory::GuestRam;

mod register;
mod slot;
mod state;
mod status;

use register::MmioRegister;
pub use slot::Slot;
pub use state::MmioState;
use status::Status;

/// "virt".
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// "BSMv": shown by the driver, without meaning.
const VENDOR: u32 = u32::from_le_bytes(*b"BSMv");
/// Device configuration space.
const CONFIG: u64 = 0x100;

/// One device's registers.
pub struct MmioTransport {
    device: Arc<Mutex<dyn VirtioDevice>>,
    memory: Arc<GuestRam>,
    interrupt: Arc<Interrupt>,
    faults: Arc<FaultLatch>,
    status: Status,
    offered: u64,
    accepted: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    /// Queues as configured. An active device works on copies.
    queues: Vec<Queue>,
    /// The device has its queues.
    active: bool,
    queue_sizes: Vec<u16>,
    refused: u64,
}

impl MmioTransport {
    /// A transport in the state after reset.
    pub fn new(
        device: Arc<Mutex<dyn VirtioDevice>>,
        memory: Arc<GuestRam>,
        interrupt: Arc<Interrupt>,
        faults: Arc<FaultLatch>,
    ) -> Self {
        let (offered, queue_sizes) = {
            let device = device.lock().unwrap_or_else(PoisonError::into_inner);
            (device.features(), device.queue_max_sizes().to_vec())
        };
        let queues = new_queues(&queue_sizes);
        Self {
            device,
            memory,
            interrupt,
            faults,
            status: Status::default(),
            offered,
            accepted: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            queues,
            active: false,
            queue_sizes,
            refused: 0,
        }
    }

    /// How many writes were refused because they came at the wrong time or made no sense.
    #[cfg(test)]
    pub fn refused_writes(&self) -> u64 {
        self.refused
    }

    /// A read of `data.len()` bytes at `offset` into the device's window.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(config) = offset.checked_sub(CONFIG) {
            self.device().read_config(config, data);
        } else if let (Ok(word), Some(register)) =
            (<&mut [u8; 4]>::try_from(data), MmioRegister::at(offset))
        {
            *word = self.register(register).to_le_bytes();
        }
    }

    /// A write of `data` at `offset` into the device's window.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        // Configuration space is read-only: no device here has a writable field.
        let accepted = match (<[u8; 4]>::try_from(data), MmioRegister::at(offset)) {
            (Ok(word), Some(register)) => self.set(register, u32::from_le_bytes(word)),
            _ => false,
        };
        if !accepted {
            self.refused = self.refused.saturating_add(1);
            debug!(offset, status = self.status.bits(), "refused a virtio-mmio write");
        }
    }

    fn register(&self, register: MmioRegister) -> u32 {
        match register {
            MmioRegister::Magic => MAGIC,
            MmioRegister::Version => VERSION,
            MmioRegister::DeviceId => self.device().device_type(),
            MmioRegister::VendorId => VENDOR,
            MmioRegister::DeviceFeatures => half(self.offered, self.device_features_sel),
            MmioRegister::QueueNumMax => {
                self.queue_sizes.get(self.queue_sel as usize).copied().unwrap_or(0).into()
            }
            MmioRegister::QueueReady => {
                self.queues.get(self.queue_sel as usize).is_some_and(QueueT::ready).into()
            }
            MmioRegister::InterruptStatus => self.interrupt.status(),
            MmioRegister::Status => self.status.bits_with(self.faults.is_raised()),
            // No shared memory regions: length and base of all ones (section 4.2.2).
            MmioRegister::ShmLenLow
            | MmioRegister::ShmLenHigh
            | MmioRegister::ShmBaseLow
            | MmioRegister::ShmBaseHigh => u32::MAX,
            // The configuration space never changes.
            _ => 0,
        }
    }

    /// False when the write is refused.
    fn set(&mut self, register: MmioRegister, value: u32) -> bool {
        match register {
            MmioRegister::DeviceFeaturesSel => self.device_features_sel = value,
            MmioRegister::DriverFeaturesSel => self.driver_features_sel = value,
            MmioRegister::QueueSel => self.queue_sel = value,
            MmioRegister::ShmSel => {}
            MmioRegister::DriverFeatures => return self.accept_features(value),
            MmioRegister::QueueNotify => return self.notify(value),
            MmioRegister::InterruptAck => self.acknowledge(value),
            MmioRegister::Status => return self.set_status(value),
            MmioRegister::QueueNum
            | MmioRegister::QueueReady
            | MmioRegister::QueueDescLow
            | MmioRegister::QueueDescHigh
            | MmioRegister::QueueDriverLow
            | MmioRegister::QueueDriverHigh
            | MmioRegister::QueueDeviceLow
            | MmioRegister::QueueDeviceHigh => return self.configure_queue(register, value),
            _ => return false,
        }
        true
    }

    fn accept_features(&mut self, value: u32) -> bool {
        if !self.status.negotiating() {
            return false;
        }
        match self.driver_features_sel {
            0 => self.accepted = (self.accepted & !0xffff_ffff) | u64::from(value),
            1 => self.accepted = (self.accepted & 0xffff_ffff) | (u64::from(value) << 32),
            _ => return false,
        }
        true
    }

    fn configure_queue(&mut self, register: MmioRegister, value: u32) -> bool {
        if !self.status.configuring_queues() {
            return false;
        }
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else { return false };
        // A ready queue can only be made not ready (section 4.2.2.2).
        if queue.ready() && register != MmioRegister::QueueReady {
            return false;
        }
        let part = match register {
            MmioRegister::QueueDescLow
            | MmioRegister::QueueDriverLow
            | MmioRegister::QueueDeviceLow => Half::Low,
            _ => Half::High,
        };
        match register {
            MmioRegister::QueueNum => {
                u16::try_from(value).is_ok_and(|size| queue.try_set_size(size).is_ok())
            }
            MmioRegister::QueueReady if value <= 1 => {
                queue.set_ready(value == 1);
                true
            }
            MmioRegister::QueueDescLow | MmioRegister::QueueDescHigh => {
                let address = part.replace(queue.desc_table(), value);
                queue.try_set_desc_table_address(address).is_ok()
            }
            MmioRegister::QueueDriverLow | MmioRegister::QueueDriverHigh => {
                let address = part.replace(queue.avail_ring(), value);
                queue.try_set_avail_ring_address(address).is_ok()
            }
            MmioRegister::QueueDeviceLow | MmioRegister::QueueDeviceHigh => {
                let address = part.replace(queue.used_ring(), value);
                queue.try_set_used_ring_address(address).is_ok()
            }
            _ => false,
        }
    }

    fn set_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let Some(next) = self.status.after(value) else { return false };
        if next.features_just_accepted(self.status) && !self.features_are_valid() {
            // The driver reads the bit back and finds its choice refused (section 3.1.1, step 6).
            return false;
        }
        let activate = next.driver_just_ready(self.status);
        self.status = next;
        if activate && let Err(fault) = self.activate() {
            self.faults.raise(&fault);
        }
        true
    }

    fn features_are_valid(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn activate(&mut self) -> Result<(), DeviceFault> {
        if let Some(index) = self.queues.iter().position(|queue| !queue.is_valid(&*self.memory)) {
            return Err(DeviceFault::BrokenQueue {
                device: "virtio-mmio",
                queue: index as u16,
                reason: "not ready, or its rings are outside guest RAM".into(),
            });
        }
        let event_idx = self.accepted & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        for queue in &mut self.queues {
            queue.set_event_idx(event_idx);
        }
        let queues = self.queues.iter().filter_map(|queue| Queue::try_from(queue.state()).ok());
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues: queues.collect(),
            interrupt: Arc::clone(&self.interrupt),
            faults: Arc::clone(&self.faults),
            features: self.accepted,
        };
        self.device().activate(activation)?;
        self.active = true;
        // A driver may have filled queues before: its notifications were not taken then.
        for queue in 0..self.queue_sizes.len() {
            self.device().notify(queue as u16)?;
        }
        Ok(())
    }

    fn notify(&mut self, value: u32) -> bool {
        let Ok(queue) = u16::try_from(value) else { return false };
        let exists = usize::from(queue) < self.queue_sizes.len();
        if !self.status.driver_ready() || !exists || self.faults.is_raised() {
            return false;
        }
        let result = self.device().notify(queue);
        if let Err(fault) = result {
            self.faults.raise(&fault);
        }
        true
    }

    fn acknowledge(&mut self, bits: u32) {
        self.interrupt.acknowledge(bits);
        if !self.status.driver_ready() || !self.active || self.faults.is_raised() {
            return;
        }
        let result = self.device().continue_work();
        if let Err(fault) = result {
            self.faults.raise(&fault);
        }
    }

    fn reset(&mut self) {
        self.device().reset();
        self.active = false;
        self.interrupt.set_status(0);
        self.faults.clear();
        self.status = Status::default();
        self.accepted = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.queues = new_queues(&self.queue_sizes);
    }

    fn device(&self) -> MutexGuard<'_, dyn VirtioDevice + 'static> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        Self::read(self, offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        Self::write(self, offset, data);
    }

    fn capture(&self) -> Result<TransportState, StateError> {
        self.state().map(TransportState::Mmio)
    }

    fn restore(&mut self, state: &TransportState) -> Result<(), StateError> {
        match state {
            TransportState::Mmio(state) => Self::restore(self, state),
        }
    }
}

/// Which half of an address a register holds.
#[derive(Clone, Copy)]
enum Half {
    Low,
    High,
}

impl Half {
    fn replace(self, address: u64, value: u32) -> GuestAddress {
        let value = u64::from(value);
        GuestAddress(match self {
            Self::Low => address & !0xffff_ffff | value,
            Self::High => address & 0xffff_ffff | value << 32,
        })
    }
}

fn half(features: u64, sel: u32) -> u32 {
    match sel {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn new_queues(sizes: &[u16]) -> Vec<Queue> {
    // `new` only fails for sizes that are no power of two; device models have constants here.
    sizes.iter().filter_map(|size| Queue::new(*size).ok()).collect()
}

#[cfg(test)]
mod tests;
