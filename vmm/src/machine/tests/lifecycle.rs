//! Boot, pause, resume, shut down, and the ways in which a guest stops its machine.

use std::sync::Arc;
use std::time::Duration;

use super::tiny_guest::*;
use crate::arch::MpState;
use crate::boot::{KernelImage, small_elf};
use crate::machine::*;

const LIMIT: Duration = Duration::from_secs(20);

fn wait_for_output(machine: &Machine, text: &str) {
    for _ in 0..2000 {
        if machine.console().bytes.ends_with(text.as_bytes()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("console: {:?}", machine.console());
}

#[test]
fn output_reaches_the_console_and_the_state_comes_from_kvm() {
    let machine = machine(&[print("hello"), SPIN.to_vec()].concat());
    assert_eq!(machine.state().unwrap(), MachineState::Created);
    machine.boot().unwrap();
    wait_for_output(&machine, "hello");
    let MachineState::Running(vcpus) = machine.state().unwrap() else { panic!("not running") };
    assert_eq!(vcpus[0].mp_state, MpState::Runnable);
    let spin = ENTRY + 5 * 7;
    assert!((spin..spin + 4).contains(&vcpus[0].rip), "{vcpus:x?}");
    assert!(machine.timings().unwrap().first_run > Duration::ZERO);
}

#[test]
fn a_paused_machine_stands_still() {
    let machine = machine(&SPIN);
    machine.boot().unwrap();
    machine.pause().unwrap();
    let first = machine.state().unwrap();
    assert!(matches!(first, MachineState::Paused(_)));
    assert_eq!(machine.state().unwrap(), first);
    machine.resume().unwrap();
    assert!(matches!(machine.state().unwrap(), MachineState::Running(_)));
}

#[test]
fn calls_in_the_wrong_order_are_typed_errors() {
    let machine = machine(&SPIN);
    let wrong = |result: Result<(), MachineError>| {
        assert!(matches!(result, Err(MachineError::WrongState { .. })), "{result:?}");
    };
    wrong(machine.pause());
    wrong(machine.resume());
    machine.boot().unwrap();
    wrong(machine.boot());
    wrong(machine.resume());
    machine.pause().unwrap();
    wrong(machine.pause());
    wrong(machine.boot());
    machine.shutdown();
    machine.shutdown();
    wrong(machine.boot());
    wrong(machine.pause());
    wrong(machine.resume());
    assert_eq!(machine.state().unwrap(), MachineState::Stopped(StopReason::Shutdown));
}

#[test]
fn a_triple_fault_is_reported() {
    let machine = machine(&FAULT);
    machine.boot().unwrap();
    assert_eq!(machine.wait_stopped(LIMIT), Some(StopReason::TripleFault));
}

#[test]
fn a_panic_is_told_from_a_triple_fault_by_the_console() {
    let line = "Kernel panic - not syncing: test";
    let machine = machine(&[print(line), FAULT.to_vec()].concat());
    machine.boot().unwrap();
    assert_eq!(machine.wait_stopped(LIMIT), Some(StopReason::GuestPanic(line.into())));
}

#[test]
fn a_reset_by_the_guest_is_reported() {
    let machine = machine(&[out(0x64, 0xfe), SPIN.to_vec()].concat());
    machine.boot().unwrap();
    assert_eq!(machine.wait_stopped(LIMIT), Some(StopReason::GuestReset));
}

#[test]
fn a_stopped_machine_fails_everyone_who_waits_for_the_guest() {
    let machine = machine(&[print("x"), FAULT.to_vec()].concat());
    let listener = machine.vsock().listen(52000).unwrap();
    machine.boot().unwrap();
    assert!(listener.accept(Some(LIMIT)).is_err());
    assert_eq!(machine.stop_reason(), Some(StopReason::TripleFault));
}

#[test]
fn application_processors_wait_to_be_started() {
    let machine = Machine::create(MachineConfig { vcpus: 3, ..config(&SPIN) }).unwrap();
    machine.boot().unwrap();
    let MachineState::Running(vcpus) = machine.state().unwrap() else { panic!("not running") };
    let states: Vec<_> = vcpus.iter().map(|vcpu| vcpu.mp_state).collect();
    assert_eq!(states, [MpState::Runnable, MpState::Uninitialized, MpState::Uninitialized]);
}

#[test]
fn a_kernel_too_large_for_the_guest_ends_the_machine_with_a_reason() {
    let image = small_elf::elf(ENTRY, &SPIN, 65 << 20);
    let kernel = Arc::new(KernelImage::from_bytes(&image).unwrap());
    let machine = Machine::create(MachineConfig { kernel, ..config(&SPIN) }).unwrap();
    assert!(matches!(machine.boot(), Err(MachineError::Boot(_))));
    assert!(matches!(machine.stop_reason(), Some(StopReason::BootFailed(_))));
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let base = config(&SPIN);
    for (bad, error) in [
        (MachineConfig { vcpus: 0, ..base.clone() }, ConfigError::Vcpus(0)),
        (MachineConfig { vcpus: 9, ..base.clone() }, ConfigError::Vcpus(9)),
        (MachineConfig { memory_mib: 63, ..base.clone() }, ConfigError::Memory(63)),
        (MachineConfig { memory_mib: 8193, ..base.clone() }, ConfigError::Memory(8193)),
        (MachineConfig { guest_cid: 2, ..base.clone() }, ConfigError::GuestCid(2)),
    ] {
        let Err(MachineError::Config(found)) = Machine::create(bad) else { panic!("accepted") };
        assert_eq!(found, error);
    }
}

#[test]
fn many_pauses_lose_no_kick() {
    let machine = machine(&SPIN);
    machine.boot().unwrap();
    for _ in 0..1000 {
        machine.pause().unwrap();
        machine.resume().unwrap();
    }
}

#[test]
fn a_panic_on_a_vcpus_thread_ends_the_machine() {
    let machine = machine(&SPIN);
    machine.boot().unwrap();
    {
        let phase = machine.lock();
        let Phase::Running(live) = &*phase else { panic!("not running") };
        live.core.vcpus[0].post(Box::new(|| panic!("a job of this test")));
    }
    let Some(StopReason::VcpuError(reason)) = machine.wait_stopped(LIMIT) else { panic!("runs") };
    assert!(reason.contains("panicked"), "{reason}");
    assert!(matches!(machine.pause(), Err(MachineError::WrongState { .. })));
}

/// A program may start machines on a thread that has all signals blocked.
#[test]
fn kicks_arrive_although_the_program_blocks_them() {
    let blocked = std::thread::spawn(|| {
        vmm_sys_util::signal::block_signal(vmm_sys_util::signal::SIGRTMIN()).unwrap();
        let machine = machine(&SPIN);
        machine.boot().unwrap();
        for _ in 0..10 {
            machine.pause().unwrap();
            machine.resume().unwrap();
        }
    });
    blocked.join().unwrap();
}

/// Whoever keeps the machine to read its console keeps no descriptors of KVM's.
#[test]
fn a_machine_that_was_shut_down_keeps_no_vcpu() {
    let machine = machine(&SPIN);
    machine.boot().unwrap();
    let vcpu = {
        let phase = machine.lock();
        let Phase::Running(live) = &*phase else { panic!("not running") };
        Arc::downgrade(&live.core.vcpus[0])
    };
    machine.shutdown();
    assert!(vcpu.upgrade().is_none());
    assert_eq!(machine.stop_reason(), Some(StopReason::Shutdown));
}
