//! States in which a machine that was reset may differ without tampering: the
//! processor or KVM carried something over that no call of KVM takes back in every case. Each has its
//! reason. A difference that is not one of these is an alarm.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_vcpu_events,
};

use super::lapic;
use super::msrs::{BRANCH_RECORDS, TSC_DEADLINE};

/// What was carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Residue {
    /// A vCPU that waited was woken.
    WakeUp,
    /// A system management interrupt or a triple fault waits for the vCPU's next entry.
    EventOnItsWay,
    /// The processor recorded branches.
    BranchRecord,
    /// The deadline of the local APIC's timer passed.
    DeadlinePassed,
    /// The PIT ticked.
    PitTick,
}

impl Residue {
    /// Why this is no tampering.
    pub fn reason(self) -> &'static str {
        match self {
            Self::WakeUp => {
                "a wake-up was on its way, which KVM before Linux 6.14 takes back only when it enters \
                 the vCPU"
            }
            Self::EventOnItsWay => {
                "another vCPU sent it while this one was being stopped, and KVM shows it late"
            }
            Self::BranchRecord => "the processor writes these registers by itself",
            Self::DeadlinePassed => {
                "the time between capture and deadline passed while the machine stood still"
            }
            Self::PitTick => "the timer ticked after its controller was restored",
        }
    }

    /// The run state.
    pub fn of_run_state(then: kvm_mp_state, now: kvm_mp_state) -> Option<Self> {
        let woken = (then.mp_state, now.mp_state) == (KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE);
        woken.then_some(Self::WakeUp)
    }

    /// Pending events.
    pub fn of_events(then: &kvm_vcpu_events, now: &kvm_vcpu_events) -> Option<Self> {
        let mut without = *now;
        without.smi.pending = then.smi.pending;
        without.triple_fault.pending = then.triple_fault.pending;
        (without == *then).then_some(Self::EventOnItsWay)
    }

    /// One MSR. `tsc` is the guest's counter when it was read.
    pub fn of_msr(then: &kvm_msr_entry, now: &kvm_msr_entry, tsc: u64) -> Option<Self> {
        match then.index {
            index if BRANCH_RECORDS.contains(&index) => Some(Self::BranchRecord),
            TSC_DEADLINE if has_passed(then.data, now.data, tsc) => Some(Self::DeadlinePassed),
            _ => None,
        }
    }

    /// The local APIC, whose timer was due at `deadline` and now is at `now_deadline`.
    pub fn of_lapic(
        then: &kvm_lapic_state,
        now: &kvm_lapic_state,
        (deadline, now_deadline): (u64, u64),
        tsc: u64,
    ) -> Option<Self> {
        if !has_passed(deadline, now_deadline, tsc) {
            return None;
        }
        let vector = lapic::register(then, lapic::LVT_TIMER) & 0xff;
        let (word, bit) = (lapic::IRR + vector as usize / 32 * lapic::STRIDE, 1 << (vector % 32));
        let only_the_timers =
            lapic::registers(then).zip(lapic::registers(now)).all(|((offset, then), (_, now))| {
                then == now || offset == lapic::CURRENT_COUNT || offset == word && then | bit == now
            });
        only_the_timers.then_some(Self::DeadlinePassed)
    }

    /// The master PIC, byte by byte.
    pub fn of_pic_master(then: &[u8], now: &[u8]) -> Option<Self> {
        // Line 0 in `last_irr` and `irr` (`struct kvm_pic_state`).
        const TICK: u8 = 1;
        let mut pairs = then.iter().zip(now).enumerate();
        let ticked = then.len() == now.len()
            && pairs.all(|(at, (then, now))| then == now || at < 2 && then ^ now == TICK);
        ticked.then_some(Self::PitTick)
    }
}

/// True when a deadline that was set is gone, because the counter has passed it.
fn has_passed(then: u64, now: u64, tsc: u64) -> bool {
    then != 0 && now == 0 && then <= tsc
}

#[cfg(test)]
mod tests {
    use kvm_bindings::{KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED};

    use super::*;

    const ALL: [Residue; 5] = [
        Residue::WakeUp,
        Residue::EventOnItsWay,
        Residue::BranchRecord,
        Residue::DeadlinePassed,
        Residue::PitTick,
    ];

    #[test]
    fn every_residue_has_a_reason_of_its_own() {
        for (index, one) in ALL.iter().enumerate() {
            assert!(!one.reason().is_empty());
            assert!(ALL[..index].iter().all(|other| other.reason() != one.reason()));
        }
    }

    #[test]
    fn only_a_wake_up_changes_the_run_state() {
        let state = |mp_state| kvm_mp_state { mp_state };
        let states = [
            KVM_MP_STATE_RUNNABLE,
            KVM_MP_STATE_HALTED,
            KVM_MP_STATE_UNINITIALIZED,
            KVM_MP_STATE_INIT_RECEIVED,
        ];
        for then in states {
            for now in states {
                let woken = (then, now) == (KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE);
                let found = Residue::of_run_state(state(then), state(now));
                assert_eq!(found.is_some(), woken, "{then} {now}");
            }
        }
    }

    #[test]
    fn an_event_beside_a_pending_smi_is_an_alarm() {
        let then = kvm_vcpu_events::default();
        let mut now = then;
        now.smi.pending = 1;
        assert_eq!(Residue::of_events(&then, &now), Some(Residue::EventOnItsWay));
        now.triple_fault.pending = 1;
        assert_eq!(Residue::of_events(&then, &now), Some(Residue::EventOnItsWay));
        for change in [
            (|events| events.nmi.pending = 1) as fn(&mut kvm_vcpu_events),
            |events| events.smi.smm = 1,
            |events| events.exception.injected = 1,
            |events| events.interrupt.nr = 9,
        ] {
            let mut other = now;
            change(&mut other);
            assert_eq!(Residue::of_events(&then, &other), None);
        }
    }

    #[test]
    fn an_msr_is_a_residue_only_as_a_branch_record_or_a_deadline_that_passed() {
        let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let found = |index, then, now| Residue::of_msr(&msr(index, then), &msr(index, now), 100);
        assert_eq!(found(0x1db, 1, 2), Some(Residue::BranchRecord));
        assert_eq!(found(TSC_DEADLINE, 99, 0), Some(Residue::DeadlinePassed));
        for (index, then, now) in [
            (TSC_DEADLINE, 101, 0),
            (TSC_DEADLINE, 99, 98),
            (TSC_DEADLINE, 0, 99),
            (0x174, 1, 0),
            (0xc000_0082, 1, 2),
            (0x1da, 1, 2),
        ] {
            assert_eq!(found(index, then, now), None, "{index:#x} {then} {now}");
        }
    }

    #[test]
    fn a_timer_interrupt_is_a_residue_only_after_its_deadline() {
        let mut then = kvm_lapic_state::default();
        then.regs[lapic::LVT_TIMER] = 0x6c_u8.cast_signed();
        let mut now = then;
        // Vector 0x6c is bit 12 of the fourth word.
        now.regs[lapic::IRR + 3 * lapic::STRIDE + 1] = 1 << 4;
        let due = (50, 0);
        assert_eq!(Residue::of_lapic(&then, &now, due, 100), Some(Residue::DeadlinePassed));
        assert_eq!(Residue::of_lapic(&then, &now, due, 49), None);
        assert_eq!(Residue::of_lapic(&then, &now, (50, 50), 100), None);
        now.regs[lapic::IRR + 3 * lapic::STRIDE] = 1;
        assert_eq!(Residue::of_lapic(&then, &now, due, 100), None);
    }

    #[test]
    fn a_tick_is_a_residue_and_another_line_is_not() {
        assert_eq!(Residue::of_pic_master(&[0, 0, 7], &[1, 1, 7]), Some(Residue::PitTick));
        for now in [[2, 0, 7], [0, 2, 7], [0, 0, 6], [1, 1, 6]] {
            assert_eq!(Residue::of_pic_master(&[0, 0, 7], &now), None, "{now:?}");
        }
        assert_eq!(Residue::of_pic_master(&[0, 0], &[1]), None);
    }
}
