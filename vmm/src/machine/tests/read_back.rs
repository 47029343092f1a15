//! What a verification reads from a machine whose guest is a few bytes of code.

use std::time::Duration;

use super::broken_reset::{Sabotage, sabotage};
use super::captured::{STRATEGIES, captured, disturb, let_run, run_a_while, with_disk, write_disk};
use super::tiny_guest::{SPIN, config, machine};
use crate::arch::MpState;
use crate::integrity::{IntegrityPlan, Tamper};
use crate::machine::*;
use crate::snapshot::{Difference, Register};

fn golden(machine: &Machine) -> Arc<Golden> {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    live.golden().unwrap()
}

fn state_differences(machine: &Machine) -> Vec<Difference> {
    machine.state_differences().unwrap().0
}

#[test]
fn a_reset_machine_shows_its_golden_state_and_disk() {
    let machine = captured(MachineConfig { vcpus: 2, ..with_disk() });
    let golden = golden(&machine);
    let disk = golden.disk_sha256().unwrap();
    assert!(disk.is_some());
    assert_eq!(golden.run_states(), [MpState::Runnable, MpState::Uninitialized]);
    for strategy in STRATEGIES {
        run_a_while(&machine);
        write_disk(&machine);
        assert_ne!(state_differences(&machine), []);
        assert_ne!(machine.disk_sha256().unwrap(), disk);
        machine.reset(strategy).unwrap();
        assert_eq!(state_differences(&machine), [], "{}", strategy.name());
        assert_eq!(machine.disk_sha256().unwrap(), disk);
        // Looking changes nothing.
        assert_eq!(machine.differences().unwrap().0, []);
    }
}

#[test]
fn what_a_broken_reset_leaves_in_state_or_on_disk_is_seen() {
    let machine = captured(with_disk());
    let disk = golden(&machine).disk_sha256().unwrap();
    let broken = [
        (Sabotage::SkipVcpus, "registers"),
        (Sabotage::SkipDevices, "device"),
        (Sabotage::SkipVm, "PIT"),
        (Sabotage::SkipDisk, ""),
    ];
    for (how, named) in broken {
        run_a_while(&machine);
        write_disk(&machine);
        disturb(&machine);
        sabotage(&machine, Some(how));
        machine.reset(Strategy::CopyBack).unwrap();
        let found = machine.state_differences().unwrap();
        assert!(found.to_string().contains(named), "{how:?}: {found}");
        assert_eq!(machine.disk_sha256().unwrap() == disk, how != Sabotage::SkipDisk);
        sabotage(&machine, None);
        machine.reset(Strategy::CopyBack).unwrap();
    }
}

#[test]
fn a_host_that_is_slow_between_two_steps_is_no_difference() {
    let machine = captured(config(&SPIN));
    for _ in 0..3 {
        let_run(&machine);
        sabotage(&machine, Some(Sabotage::Dawdle));
        machine.reset(Strategy::CopyBack).unwrap();
        assert_eq!(state_differences(&machine), []);
        assert_eq!(machine.differences().unwrap().0, []);
    }
}

#[test]
fn pages_written_after_a_reset_are_seen_and_put_back_by_the_next() {
    let machine = captured(config(&SPIN));
    machine.reset(Strategy::CopyBack).unwrap();
    {
        let phase = machine.lock();
        let Phase::Paused(live) = &*phase else { panic!("not paused") };
        let at = vm_memory::GuestAddress(0x20_0000);
        vm_memory::Bytes::write_slice(live.core.vm.ram().as_ref(), &[1; 5000], at).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(state_differences(&machine), [Difference::Written { pages: 2 }]);
    }
    machine.reset(Strategy::CopyBack).unwrap();
    assert_eq!(machine.differences().unwrap().0, []);
    assert_eq!(state_differences(&machine), []);
}

#[test]
fn a_running_machine_goes_on_after_its_disk_was_read() {
    let machine = captured(with_disk());
    let disk = golden(&machine).disk_sha256().unwrap();
    machine.resume().unwrap();
    assert_eq!(machine.disk_sha256().unwrap(), disk);
    assert!(matches!(machine.state_differences(), Err(MachineError::WrongState { .. })));
    assert!(matches!(machine.state().unwrap(), MachineState::Running(_)));
    std::thread::sleep(Duration::from_millis(5));
    machine.shutdown();
    assert!(matches!(machine.disk_sha256(), Err(MachineError::WrongState { .. })));
}

#[test]
fn a_machine_without_a_disk_or_a_golden_state_says_so() {
    let machine = machine(&SPIN);
    machine.boot().unwrap();
    assert_eq!(machine.disk_sha256().unwrap(), None);
    machine.pause().unwrap();
    assert!(matches!(machine.state_differences(), Err(MachineError::NotCaptured)));
}

#[test]
fn a_reset_machine_passes_its_own_check() {
    let machine = captured(with_disk());
    for strategy in STRATEGIES {
        run_a_while(&machine);
        write_disk(&machine);
        machine.reset(strategy).unwrap();
        let report = machine.check_after_reset(&IntegrityPlan::default()).unwrap();
        assert_eq!(report.findings, [], "{}", strategy.name());
        assert_eq!(report.disk_root, golden(&machine).disk_root().unwrap());
    }
}

#[test]
fn registers_are_told_by_name_as_they_are_and_as_they_were() {
    for vcpus in [1, 2] {
        let machine = captured(MachineConfig { vcpus, ..with_disk() });
        run_a_while(&machine);
        machine.reset(Strategy::CopyBack).unwrap();
        let changed = |registers: &[Register]| -> Vec<String> {
            // Clocks, and which parts are in their initial state, which KVM says as it likes.
            let volatile = |name: &str| {
                name == "tsc" || name.contains("current count") || name.starts_with("XSTATE_BV")
            };
            let changed = registers.iter().filter(|r| r.was.as_ref() != Some(&r.is));
            changed.map(|r| r.name.clone()).filter(|name| !volatile(name)).collect()
        };
        let before = machine.registers().unwrap();
        assert_eq!(before.iter().filter(|r| r.name == "rip").count(), usize::from(vcpus));
        assert_eq!(changed(&before), Vec::<String>::new());
        machine.tamper(Tamper::Register).unwrap();
        machine.tamper(Tamper::Msr).unwrap();
        let after = machine.registers().unwrap();
        assert_eq!(changed(&after).len(), 2, "{:?}", changed(&after));
        let rbx = after.iter().find(|r| r.name == "rbx").unwrap();
        let number = |text: &str| u64::from_str_radix(&text[2..], 16).unwrap();
        assert_eq!(number(&rbx.is), number(rbx.was.as_ref().unwrap()) ^ 1);
        assert!(rbx.to_string().starts_with("vCPU 0 rbx: 0x"), "{rbx}");
        // Looking changes nothing.
        machine.reset(Strategy::CopyBack).unwrap();
        assert_eq!(state_differences(&machine), []);
        machine.resume().unwrap();
        assert!(matches!(machine.registers(), Err(MachineError::WrongState { .. })));
    }
}
