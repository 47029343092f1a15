//! Routes port and memory-mapped accesses to devices. What nobody owns reads as all ones and
//! swallows writes, as on a real bus.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::SerialState;

use super::virtio::{MmioState, MmioTransport, StateError};
use super::{Checkpoint, Com1};
use crate::arch::{KeyboardController, layout};

/// All devices the guest can reach by address.
pub struct Bus {
    com1: Mutex<Com1>,
    keyboard: KeyboardController,
    checkpoint: Checkpoint,
    virtio: Vec<Mutex<MmioTransport>>,
}

impl Bus {
    /// A bus with virtio-mmio devices in slot order.
    pub fn new(
        com1: Com1,
        keyboard: KeyboardController,
        checkpoint: Checkpoint,
        virtio: Vec<MmioTransport>,
    ) -> Self {
        let virtio = virtio.into_iter().map(Mutex::new).collect();
        Self { com1: Mutex::new(com1), keyboard, checkpoint, virtio }
    }

    /// A memory-mapped read.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match self.device_at(address) {
            Some((device, offset)) => {
                lock(device).read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// A memory-mapped write.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.device_at(address) {
            lock(device).write(offset, data);
        }
    }

    /// A port read. String instructions read the same register again and again.
    pub fn pio_read(&self, port: u16, data: &mut [u8]) {
        if Com1::owns(port) {
            let mut com1 = lock(&self.com1);
            for byte in data {
                *byte = com1.read(port);
            }
        } else if KeyboardController::owns(port) {
            data.fill(0);
        } else {
            data.fill(0xff);
        }
    }

    /// A port write.
    pub fn pio_write(&self, port: u16, data: &[u8]) {
        if Com1::owns(port) {
            let mut com1 = lock(&self.com1);
            for byte in data {
                com1.write(port, *byte);
            }
        } else if port == Checkpoint::PORT {
            for byte in data {
                self.checkpoint.write(*byte);
            }
        } else {
            for byte in data {
                self.keyboard.write(port, *byte);
            }
        }
    }

    /// Registers of the virtio transports, in slot order, and of the serial port.
    pub fn capture(&self) -> Result<(Vec<MmioState>, SerialState), StateError> {
        let transports = self.virtio.iter().map(|transport| lock(transport).state());
        Ok((transports.collect::<Result<_, _>>()?, lock(&self.com1).state()))
    }

    /// Puts back what [`Self::capture`] read.
    pub fn restore(&self, transports: &[MmioState], com1: &SerialState) -> Result<(), StateError> {
        if transports.len() != self.virtio.len() {
            return Err(StateError::Queue);
        }
        for (transport, state) in self.virtio.iter().zip(transports) {
            lock(transport).restore(state)?;
        }
        lock(&self.com1).restore(com1)
    }

    /// Keeps everybody who wants to use the serial port waiting.
    #[cfg(test)]
    pub fn hold_com1(&self) -> MutexGuard<'_, Com1> {
        lock(&self.com1)
    }

    fn device_at(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let relative = address.checked_sub(layout::VIRTIO_MMIO)?;
        let slot = usize::try_from(relative / layout::VIRTIO_MMIO_STRIDE).ok()?;
        Some((self.virtio.get(slot)?, relative % layout::VIRTIO_MMIO_STRIDE))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
