use std::time::Instant;

use kvm_bindings::KVM_VCPUEVENT_VALID_SMM;

use super::*;

type Change = fn(&mut VcpuState);

fn msr(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

fn sample() -> VcpuState {
    let mut state = VcpuState { msrs: vec![msr(0x174, 1)], tsc: 1000, ..Default::default() };
    state.xcrs.nr_xcrs = 1;
    state
}

/// Every group, changed alone, is found under its own name. A field that is added to the state does
/// not compile here until it is in the table.
#[test]
fn every_group_is_compared_and_described() {
    let then = sample();
    let VcpuState { mp_state: _, regs: _, sregs: _, events: _, xsave: _, xcrs: _, .. } = &then;
    let VcpuState { debug_regs: _, lapic: _, msrs: _, tsc: _, .. } = &then;
    let changes: [(&str, Change); 10] = [
        ("run state", |state| state.mp_state.mp_state = 3),
        ("registers", |state| state.regs.r15 = 1),
        ("special registers", |state| state.sregs.gdt.limit = 1),
        ("events", |state| state.events.flags |= KVM_VCPUEVENT_VALID_SMM),
        ("extended control registers", |state| state.xcrs.xcrs[0].value = 1),
        ("debug registers", |state| state.debug_regs.dr7 = 1),
        ("floating point and vector registers", |state| state.xsave.region[40] = 1),
        ("local APIC", |state| state.lapic.regs[0x80] = 1),
        ("MSR 0x174", |state| state.msrs[0].data = 2),
        ("TSC", |state| state.tsc = 0),
    ];
    assert_eq!(changes.len(), GROUPS.len());
    let now = Instant::now();
    let tsc = Some((ElapsedBounds { reset: None, read: (now, now) }, 1_000_000_000));
    assert_eq!(then.compare(&then, tsc), []);
    for (index, (part, change)) in changes.into_iter().enumerate() {
        let mut state = sample();
        change(&mut state);
        let found = then.compare(&state, tsc);
        assert_eq!(found.iter().map(|one| one.part.as_str()).collect::<Vec<_>>(), [part]);
        assert_ne!(then.describe(), state.describe(), "{part}");
        assert_eq!(usize::from(listed()[index].listed), index, "{part}");
    }
}

#[test]
fn what_runs_by_itself_is_not_compared() {
    let then = sample();
    let mut now = sample();
    now.xsave.region[512 / 4] = 7;
    now.lapic.regs[crate::arch::x86_64::lapic::CURRENT_COUNT] = 9;
    now.tsc = 5;
    assert_eq!(then.compare(&now, None), []);
}

#[test]
fn a_missing_msr_is_found() {
    let (then, mut now) = (sample(), sample());
    now.msrs.clear();
    let found = then.compare(&now, None);
    assert_eq!(found[0].part, "number of MSRs");
}
