//! A capture never holds a timer that is due.

use kvm_bindings::{Msrs, kvm_msr_entry};

use super::captured::captured;
use super::tiny_guest::{SPIN, config};
use crate::machine::*;
use crate::snapshot::ResetError;

const TSC_DEADLINE: u32 = 0x6e0;
/// Offset of the timer's entry in the local vector table, and its bits: deadline mode, masked,
/// vector 0x40.
const LVT_TIMER: usize = 0x320;
const DEADLINE_MODE: [u8; 4] = [0x40, 0, 0b101, 0];

/// Gives the first vCPU's timer a deadline, in ticks from now.
fn set_deadline(machine: &Machine, ticks: i64) {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    let vcpu = live.core.vcpus[0].vcpu();
    let mut lapic = vcpu.fd.get_lapic().unwrap();
    for (to, from) in lapic.regs[LVT_TIMER..].iter_mut().zip(DEADLINE_MODE) {
        *to = from.cast_signed();
    }
    vcpu.fd.set_lapic(&lapic).unwrap();
    let now = vcpu.capture(&[], crate::arch::host_tsc()).unwrap().tsc();
    let data = now.checked_add_signed(ticks).unwrap();
    let entry = kvm_msr_entry { index: TSC_DEADLINE, data, ..Default::default() };
    assert_eq!(vcpu.fd.set_msrs(&Msrs::from_entries(&[entry]).unwrap()).unwrap(), 1);
}

#[test]
fn a_deadline_that_is_near_is_not_captured_and_spoils_nothing() {
    for ticks in [-1_000_000, 1, 1_000_000] {
        let machine = Machine::create(config(&SPIN)).unwrap();
        machine.boot_paused().unwrap();
        set_deadline(&machine, ticks);
        let refused = machine.capture().unwrap_err();
        assert!(matches!(refused, MachineError::Reset(ResetError::DeadlineNear)), "{refused}");
        assert!(machine.is_paused());
        // A minute is far enough.
        set_deadline(&machine, 1 << 38);
        machine.capture().unwrap();
        assert_eq!(machine.differences().unwrap().0, []);
    }
}

#[test]
fn a_deadline_that_is_far_away_comes_back_with_every_reset() {
    let machine = Machine::create(config(&SPIN)).unwrap();
    machine.boot_paused().unwrap();
    set_deadline(&machine, 1 << 38);
    machine.capture().unwrap();
    for _ in 0..3 {
        machine.reset(Strategy::CopyBack).unwrap();
        assert_eq!(machine.differences().unwrap().0, []);
    }
    drop(captured(config(&SPIN)));
}
