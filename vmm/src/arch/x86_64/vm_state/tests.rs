use std::time::Instant;

use super::*;

type Change = fn(&mut VmState);

/// Byte 1: `irr` of a PIC, part of the base address of an I/O APIC.
fn change_irr(chip: &mut kvm_irqchip) {
    // SAFETY: the member is plain bytes, which are all valid.
    unsafe { chip.chip.dummy[1] = 1 };
}

/// Every group, changed alone, is found under its own name.
#[test]
fn every_group_is_compared_and_described() {
    let then = VmState { clock_ns: 1000, ..VmState::default() };
    let changes: [(&str, Change); 5] = [
        ("PIC master", |state| change_irr(&mut state.irqchips[0])),
        ("PIC slave", |state| change_irr(&mut state.irqchips[1])),
        ("I/O APIC", |state| change_irr(&mut state.irqchips[2])),
        ("PIT", |state| state.pit.channels[0].count = 1),
        ("kvmclock", |state| state.clock_ns = 0),
    ];
    assert_eq!(changes.len(), GROUPS.len());
    let now = Instant::now();
    let bounds = ElapsedBounds { reset: None, read: (now, now) };
    assert_eq!(then.compare(&then, bounds), []);
    for (part, change) in changes {
        let mut state = then.clone();
        change(&mut state);
        let found = then.compare(&state, bounds);
        assert_eq!(found.iter().map(|one| one.part).collect::<Vec<_>>(), [part]);
        assert_ne!(then.describe(), state.describe(), "{part}");
    }
}

#[test]
fn the_time_of_the_last_load_is_the_hosts() {
    let then = VmState::default();
    let mut now = then.clone();
    now.pit.channels[1].count_load_time = 5;
    let at = Instant::now();
    assert_eq!(then.compare(&now, ElapsedBounds { reset: None, read: (at, at) }), []);
    assert_eq!(then.describe(), now.describe());
}
