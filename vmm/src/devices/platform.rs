//! Devices of the platform that have no state a guest could notice.

use super::bus::BusDevice;
use super::checkpoint::Checkpoint;
use crate::arch::KeyboardController;

impl BusDevice for KeyboardController {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let owned = Self::owns(Self::FIRST_PORT.wrapping_add(offset as u16));
        data.fill(if owned { 0 } else { 0xff });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for byte in data {
            Self::write(self, Self::FIRST_PORT.wrapping_add(offset as u16), *byte);
        }
    }
}

impl BusDevice for Checkpoint {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, _: u64, data: &[u8]) {
        for byte in data {
            Self::write(self, *byte);
        }
    }
}
