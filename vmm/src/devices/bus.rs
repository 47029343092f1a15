//! Routes port and memory-mapped accesses to devices. An address that no device has reads as all
//! ones and swallows writes, as on a real bus.

use std::ops::Range;
use std::sync::Arc;

/// A device that the guest reaches by address. `offset` counts from the start of the range that the
/// device was added with.
pub trait BusDevice: Send + Sync {
    /// Fills `data` from the register at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data` to the register at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

struct Mapping {
    range: Range<u64>,
    device: Arc<dyn BusDevice>,
}

/// All devices the guest can reach by address.
#[derive(Default)]
pub struct Bus {
    mmio: Vec<Mapping>,
    ports: Vec<Mapping>,
}

impl Bus {
    /// Adds a device at guest-physical addresses. Where ranges overlap, the first device wins.
    pub fn add_mmio(&mut self, range: Range<u64>, device: Arc<dyn BusDevice>) {
        self.mmio.push(Mapping { range, device });
    }

    /// Adds a device at ports. Where ranges overlap, the first device wins.
    pub fn add_ports(&mut self, first: u16, count: u16, device: Arc<dyn BusDevice>) {
        let range = u64::from(first)..u64::from(first) + u64::from(count);
        self.ports.push(Mapping { range, device });
    }

    /// A memory-mapped read.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        read(&self.mmio, address, data);
    }

    /// A memory-mapped write.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        write(&self.mmio, address, data);
    }

    /// A port read. String instructions read the same register again and again.
    pub fn pio_read(&self, port: u16, data: &mut [u8]) {
        read(&self.ports, port.into(), data);
    }

    /// A port write. String instructions write the same register again and again.
    pub fn pio_write(&self, port: u16, data: &[u8]) {
        write(&self.ports, port.into(), data);
    }
}

fn read(mappings: &[Mapping], address: u64, data: &mut [u8]) {
    match mappings.iter().find(|mapping| mapping.range.contains(&address)) {
        Some(Mapping { range, device }) => device.read(address - range.start, data),
        None => data.fill(0xff),
    }
}

fn write(mappings: &[Mapping], address: u64, data: &[u8]) {
    if let Some(Mapping { range, device }) =
        mappings.iter().find(|mapping| mapping.range.contains(&address))
    {
        device.write(address - range.start, data);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Register(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Register {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_device_at_the_address_and_no_other() {
        let register = Arc::new(Register::default());
        let mut bus = Bus::default();
        bus.add_mmio(0x1000..0x2000, Arc::clone(&register) as _);
        bus.add_ports(0x60, 2, Arc::clone(&register) as _);
        let mut data = [0; 2];
        bus.mmio_read(0x1004, &mut data);
        assert_eq!(data, [4; 2]);
        bus.pio_read(0x61, &mut data);
        assert_eq!(data, [1; 2]);
        for outside in [0xfff, 0x2000, 0x60, u64::MAX] {
            bus.mmio_read(outside, &mut data);
            assert_eq!(data, [0xff; 2]);
            bus.mmio_write(outside, &[1]);
        }
        bus.pio_read(0x62, &mut data);
        assert_eq!(data, [0xff; 2]);
        bus.pio_write(0x62, &[1]);
        bus.pio_write(0x60, &[7, 8]);
        bus.mmio_write(0x1fff, &[9]);
        let written = register.0.lock().unwrap().clone();
        assert_eq!(written, [(0, vec![7, 8]), (0xfff, vec![9])]);
    }
}
