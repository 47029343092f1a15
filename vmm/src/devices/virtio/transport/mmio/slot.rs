//! Where in the platform a virtio-mmio device sits.

use std::ops::Range;

use crate::arch::layout;

/// One place for a virtio-mmio device, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u32);

impl Slot {
    /// Guest-physical addresses of the registers.
    pub fn window(self) -> Range<u64> {
        let start = layout::VIRTIO_MMIO + u64::from(self.0) * layout::VIRTIO_MMIO_STRIDE;
        start..start + layout::VIRTIO_MMIO_STRIDE
    }

    /// The interrupt.
    pub fn irq(self) -> u32 {
        layout::VIRTIO_MMIO_IRQ.saturating_add(self.0)
    }

    /// The kernel parameter that tells Linux of the device.
    pub fn announce(self) -> String {
        format!("virtio_mmio.device=4K@{:#x}:{}", self.window().start, self.irq())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_each_other_in_addresses_and_interrupts() {
        assert_eq!(Slot(0).announce(), "virtio_mmio.device=4K@0xd0000000:5");
        assert_eq!(Slot(1).announce(), "virtio_mmio.device=4K@0xd0001000:6");
        assert_eq!(Slot(0).window().end, Slot(1).window().start);
    }
}
