//! Registers in the state of a local APIC (Intel SDM volume 3, "Local APIC Register Address Map").

use kvm_bindings::kvm_lapic_state;

/// Distance between two registers, in bytes. Each is 32 bits wide.
pub const STRIDE: usize = 16;
/// Offset of the first of eight words of requested interrupts.
pub const IRR: usize = 0x200;
/// Offset of the local vector table's entry for the timer.
pub const LVT_TIMER: usize = 0x320;
/// Offset of the local vector table's entry for LINT0.
pub const LVT_LINT0: usize = 0x350;
/// Offset of the local vector table's entry for LINT1.
pub const LVT_LINT1: usize = 0x360;
/// Offset of the timer's current count, which KVM computes when it is asked.
pub const CURRENT_COUNT: usize = 0x390;
/// Delivery mode of a non-maskable interrupt.
pub const MODE_NMI: u32 = 0x4;
/// Delivery mode of an external interrupt controller's interrupt.
pub const MODE_EXT_INT: u32 = 0x7;

/// Bits 8 to 10 of an entry of the local vector table.
const DELIVERY_MODE_BITS: u32 = 0x700;

/// Offset and value of every register, in order of their offsets.
pub fn registers(lapic: &kvm_lapic_state) -> impl Iterator<Item = (usize, u32)> + '_ {
    (0..lapic.regs.len()).step_by(STRIDE).map(|offset| (offset, register(lapic, offset)))
}

/// The register at `offset`; 0 for an offset outside the state.
pub fn register(lapic: &kvm_lapic_state, offset: usize) -> u32 {
    let bytes = lapic.regs.get(offset..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(0, |bytes| u32::from_le_bytes(bytes.map(i8::cast_unsigned)))
}

/// Sets the delivery mode of the local vector table's entry at `offset`.
pub fn set_delivery_mode(lapic: &mut kvm_lapic_state, offset: usize, mode: u32) {
    let value = (register(lapic, offset) & !DELIVERY_MODE_BITS) | (mode << 8);
    let bytes = lapic.regs.get_mut(offset..).and_then(|rest| rest.first_chunk_mut::<4>());
    if let Some(bytes) = bytes {
        *bytes = value.to_le_bytes().map(u8::cast_signed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_mode_leaves_the_other_bits() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[LVT_LINT0 + 2] = 1;
        set_delivery_mode(&mut lapic, LVT_LINT0, MODE_EXT_INT);
        assert_eq!(lapic.regs[LVT_LINT0 + 1], 7);
        assert_eq!(lapic.regs[LVT_LINT0 + 2], 1);
        assert_eq!(register(&lapic, LVT_LINT0), 0x1_0700);
    }

    #[test]
    fn every_register_is_listed_once() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[0x3ff - 3..].copy_from_slice(&[1, 2, 3, 4]);
        lapic.regs[0x20] = -1;
        let found: Vec<_> = registers(&lapic).collect();
        assert_eq!(found.len(), 64);
        assert_eq!(found[2], (0x20, 0xff));
        assert_eq!(register(&lapic, 0x3fc), 0x0403_0201);
        assert_eq!(register(&lapic, 0x400), 0);
    }
}
