//! Every strategy brings back every bit, and a broken reset is seen.

use std::thread::sleep;
use std::time::Duration;

use super::broken_reset::{Sabotage, sabotage};
use super::captured::{
    BUSY, STRATEGIES, captured, differences, disturb, let_run, run_a_while, run_and, with_disk,
    write_disk,
};
use super::tiny_guest::{SPIN, config, machine};
use crate::kvm::KvmError;
use crate::machine::*;
use crate::snapshot::{Difference, ResetError};

#[test]
fn every_strategy_brings_back_every_bit() {
    let machine = captured(with_disk());
    assert_eq!(differences(&machine), [], "right after the capture");
    for strategy in STRATEGIES {
        for cycle in 0..5 {
            run_a_while(&machine);
            write_disk(&machine);
            let found = differences(&machine);
            assert!(found.iter().any(|d| matches!(d, Difference::Memory { .. })), "{found:?}");
            assert!(found.contains(&Difference::Disk { at: 5000 }), "{found:?}");
            let report = machine.reset(strategy).unwrap();
            assert!((64..200).contains(&report.dirty_pages), "{report:?}");
            assert_eq!(report.disk_blocks, 2);
            assert_eq!(differences(&machine), [], "{} cycle {cycle}", strategy.name());
        }
    }
}

#[test]
fn a_running_machine_runs_on_from_its_golden_state() {
    let machine = captured(config(&BUSY));
    machine.resume().unwrap();
    for strategy in STRATEGIES {
        sleep(Duration::from_millis(5));
        let report = machine.reset(strategy).unwrap();
        assert!(report.parts.stop > Duration::ZERO);
        assert!(matches!(machine.state().unwrap(), MachineState::Running(_)));
    }
    machine.pause().unwrap();
    machine.reset(Strategy::CopyBack).unwrap();
    assert_eq!(differences(&machine), []);
}

#[test]
fn all_memory_dirty_and_memory_above_the_hole() {
    let machine = captured(MachineConfig { memory_mib: 3200, ..config(&SPIN) });
    for strategy in [Strategy::CopyBack, Strategy::DropPrivate] {
        {
            let phase = machine.lock();
            let Phase::Paused(live) = &*phase else { panic!() };
            let high = vm_memory::GuestAddress(crate::arch::layout::HOLE_END + 0x5432);
            vm_memory::Bytes::write_slice(live.core.vm.ram().as_ref(), &vec![1; 20 << 20], high)
                .unwrap();
        }
        let report = machine.reset(strategy).unwrap();
        assert_eq!(report.dirty_pages, (20 << 20) / 4096 + 1);
    }
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!() };
    let mut found = [9; 4096];
    let high = vm_memory::GuestAddress(crate::arch::layout::HOLE_END + 0x5000);
    vm_memory::Bytes::read_slice(live.core.vm.ram().as_ref(), &mut found, high).unwrap();
    assert_eq!(found, [0; 4096]);
}

#[test]
fn what_a_broken_reset_leaves_behind_is_seen() {
    let machine = captured(with_disk());
    let skipped = [
        (Sabotage::SkipPage, "pages of memory"),
        (Sabotage::SkipDisk, "the disk"),
        (Sabotage::SkipVcpus, "registers"),
        (Sabotage::SkipDevices, "device"),
        (Sabotage::SkipVm, "PIT"),
    ];
    for (how, named) in skipped {
        for strategy in STRATEGIES {
            run_a_while(&machine);
            write_disk(&machine);
            disturb(&machine);
            sabotage(&machine, Some(how));
            machine.reset(strategy).unwrap();
            let found = machine.differences().unwrap().to_string();
            assert!(found.contains(named), "{how:?}, {}: {found}", strategy.name());
            sabotage(&machine, None);
            machine.reset(Strategy::FullCopy).unwrap();
            assert_eq!(differences(&machine), []);
        }
    }
}

#[test]
fn a_reset_that_fails_half_way_can_be_repeated_and_nothing_else() {
    let machine = captured(config(&BUSY));
    run_a_while(&machine);
    sabotage(&machine, Some(Sabotage::Fail));
    assert!(matches!(machine.reset(Strategy::DropPrivate), Err(MachineError::Reset(_))));
    let MachineState::Poisoned(reason) = machine.state().unwrap() else { panic!("not poisoned") };
    assert!(reason.contains("sabotage"));
    assert!(matches!(machine.resume(), Err(MachineError::WrongState { .. })));
    assert!(matches!(machine.pause(), Err(MachineError::WrongState { .. })));
    assert!(matches!(machine.capture(), Err(MachineError::WrongState { .. })));
    assert!(machine.reset(Strategy::CopyBack).is_err(), "still sabotaged");
    sabotage(&machine, None);
    // KVM's log was cleared by the attempts that failed: the pages must be remembered.
    let report = machine.reset(Strategy::CopyBack).unwrap();
    assert!(report.dirty_pages >= 64);
    assert_eq!(differences(&machine), []);
    machine.resume().unwrap();
}

#[test]
fn capture_and_reset_at_the_wrong_time_are_typed_errors() {
    let machine = machine(&BUSY);
    let reset = |machine: &Machine| machine.reset(Strategy::CopyBack).unwrap_err();
    assert!(matches!(reset(&machine), MachineError::WrongState { .. }));
    assert!(matches!(machine.capture(), Err(MachineError::WrongState { .. })));
    machine.boot().unwrap();
    assert!(matches!(reset(&machine), MachineError::NotCaptured));
    assert!(matches!(machine.capture(), Err(MachineError::WrongState { .. })), "while running");
    machine.pause().unwrap();
    assert!(matches!(reset(&machine), MachineError::NotCaptured));
    assert!(matches!(machine.differences(), Err(MachineError::NotCaptured)));
    machine.capture().unwrap();
    assert!(matches!(machine.capture(), Err(MachineError::AlreadyCaptured)));
    machine.shutdown();
    assert!(matches!(reset(&machine), MachineError::WrongState { .. }));
}

#[test]
fn forks_start_golden_and_know_nothing_of_each_other() {
    let first = captured(with_disk());
    let golden = {
        let phase = first.lock();
        let Phase::Paused(live) = &*phase else { panic!() };
        live.golden().unwrap()
    };
    run_a_while(&first);
    write_disk(&first);
    let forks: Vec<_> = (0..3).map(|_| Machine::fork(&golden).unwrap()).collect();
    for fork in &forks {
        assert_eq!(differences(fork), []);
        run_a_while(fork);
        write_disk(fork);
        assert_ne!(differences(fork), []);
    }
    drop(first);
    for fork in &forks {
        fork.reset(Strategy::DropPrivate).unwrap();
        assert_eq!(differences(fork), []);
    }
}

#[test]
fn several_vcpus_come_back_together() {
    let machine = captured(MachineConfig { vcpus: 4, ..config(&BUSY) });
    for strategy in STRATEGIES {
        run_a_while(&machine);
        machine.reset(strategy).unwrap();
        assert_eq!(differences(&machine), []);
    }
}

#[test]
fn a_dirty_ring_finds_what_the_log_finds() {
    let machine = Machine::create_with(with_disk(), DirtyTracking::Ring).unwrap();
    machine.boot().unwrap();
    sleep(Duration::from_millis(20));
    machine.pause().unwrap();
    let golden = machine.capture().unwrap();
    let fork = Machine::fork_with(&golden, DirtyTracking::Ring).unwrap();
    for mut machine in [machine, fork] {
        for strategy in [Strategy::CopyBack, Strategy::DropPrivate] {
            for cycle in 0..5 {
                let report = run_and(&mut machine, &golden, |machine| machine.reset(strategy));
                assert!((64..200).contains(&report.dirty_pages), "{report:?}");
                assert_eq!(differences(&machine), [], "{} cycle {cycle}", strategy.name());
            }
        }
    }
}

#[test]
fn a_dirty_ring_that_overflows_loses_nothing() {
    // More pages than the ring has entries.
    let pages = 20_000;
    let machine = Machine::create_with(
        MachineConfig {
            memory_mib: 128,
            kernel: Arc::new(crate::micro::kernel(pages).unwrap()),
            ..config(&SPIN)
        },
        DirtyTracking::Ring,
    )
    .unwrap();
    machine.boot_paused().unwrap();
    machine.capture().unwrap();
    for _ in 0..3 {
        let seen = machine.checkpoint().map_or(0, |mark| mark.count);
        machine.resume().unwrap();
        machine.wait_checkpoint(seen, Duration::from_secs(20)).unwrap();
        machine.pause().unwrap();
        match machine.reset(Strategy::CopyBack) {
            Ok(report) => {
                assert!(report.dirty_pages >= pages as usize, "{report:?}");
                assert_eq!(differences(&machine), []);
            }
            // Software KVM does not stop a vCPU whose ring is full: that must be seen, for good.
            Err(MachineError::Reset(ResetError::Kvm(KvmError::DirtyRingOverran))) => {
                assert!(machine.reset(Strategy::FullCopy).is_err());
                assert!(matches!(machine.state().unwrap(), MachineState::Poisoned(_)));
                return;
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn a_vcpu_that_does_not_stop_poisons_the_machine_until_it_does() {
    let code = [super::tiny_guest::print("x"), vec![0xeb, 0xf7]].concat();
    let machine = captured(config(&code));
    let com1 = {
        let phase = machine.lock();
        let Phase::Paused(live) = &*phase else { panic!() };
        Arc::clone(live.core.devices.com1.as_ref().unwrap())
    };
    // The vCPU's thread will wait for this device, out of reach of any signal.
    let held = com1.lock().unwrap();
    machine.resume().unwrap();
    sleep(Duration::from_millis(50));
    let stuck = machine.reset(Strategy::CopyBack).unwrap_err();
    assert!(matches!(stuck, MachineError::VcpuStuck { index: 0, .. }), "{stuck}");
    assert!(matches!(machine.state().unwrap(), MachineState::Poisoned(_)));
    assert!(matches!(machine.resume(), Err(MachineError::WrongState { .. })));
    drop(held);
    machine.reset(Strategy::CopyBack).unwrap();
    assert_eq!(differences(&machine), []);
    let_run(&machine);
}
