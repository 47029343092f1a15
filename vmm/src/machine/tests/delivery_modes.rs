//! A hostile guest sends itself every kind of interrupt and makes every hypercall. After the reset
//! nothing may differ that would be taken for tampering.

use std::time::Duration;

use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, kvm_mp_state};
use vm_memory::{Bytes, GuestAddress};

use super::tiny_guest::config;
use crate::integrity::{IntegrityPlan, IntegrityReport};
use crate::machine::*;

/// How long an act may take. A guest that does not get there has stood still, and is reset.
const LIMIT: Duration = Duration::from_millis(300);
/// What to do, and with which number.
const ACT: GuestAddress = GuestAddress(0x20_0000);
const NUMBER: GuestAddress = GuestAddress(0x20_0008);
const SEND: u64 = 1;
const VMCALL: u64 = 2;
const VMMCALL: u64 = 3;

/// Maps the local APIC, switches it on, and waits for an act: writes the number to the interrupt
/// command register, or makes the hypercall of that number, to itself.
const ACTOR: [u8; 92] = [
    0xbf, 0x18, 0xa0, 0x00, 0x00, // mov edi, PDPT + 24
    0x48, 0xc7, 0x07, 0x03, 0x00, 0x30, 0x00, // mov qword [rdi], 0x300000 | present, writable
    0xbf, 0xb8, 0x0f, 0x30, 0x00, // mov edi, 0x300000 + 8 * 0x1f7
    0xb8, 0x9b, 0x00, 0xe0, 0xfe, // mov eax, 0xfee00000 | large, uncached, present, writable
    0x48, 0x89, 0x07, // mov [rdi], rax
    0xba, 0x00, 0x00, 0xe0, 0xfe, // mov edx, 0xfee00000
    0xc7, 0x82, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00, // SVR: enabled
    0x31, 0xc9, // xor ecx, ecx
    0xbf, 0x00, 0x00, 0x20, 0x00, // mov edi, 0x200000
    0x8a, 0x07, // 1: mov al, [rdi]
    0x84, 0xc0, // test al, al
    0x74, 0xfa, // je 1b
    0x8b, 0x5f, 0x08, // mov ebx, [rdi + 8]
    0x3c, 0x01, // cmp al, 1
    0x75, 0x08, // jne 2f
    0x89, 0x9a, 0x00, 0x03, 0x00, 0x00, // mov [rdx + 0x300], ebx
    0xeb, 0x10, // jmp 4f
    0x3c, 0x02, // 2: cmp al, 2
    0x75, 0x07, // jne 3f
    0x89, 0xd8, // mov eax, ebx
    0x0f, 0x01, 0xc1, // vmcall
    0xeb, 0x05, // jmp 4f
    0x89, 0xd8, // 3: mov eax, ebx
    0x0f, 0x01, 0xd9, // vmmcall
    0xe6, 0x80, // 4: out 0x80, al
    0xf3, 0x90, // 5: pause
    0xeb, 0xfc, // jmp 5b
    0x90, 0x90,
];

fn with_live<T>(machine: &Machine, look: impl FnOnce(&RunningMachine) -> T) -> T {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    look(live)
}

fn set_run_state(machine: &Machine, mp_state: u32) {
    with_live(machine, |live| {
        let vcpu = live.core.vcpus[0].vcpu();
        vcpu.fd.set_mp_state(kvm_mp_state { mp_state }).unwrap();
    });
}

/// A golden state that waits, as that of every idle guest.
fn golden() -> Arc<Golden> {
    let machine = Machine::create(config(&ACTOR)).unwrap();
    machine.boot().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    machine.pause().unwrap();
    set_run_state(&machine, KVM_MP_STATE_HALTED);
    machine.capture().unwrap()
}

/// Has the guest of a machine act once and resets it. `None` when the act was the machine's end, which
/// is a failed command.
fn after_act(golden: &Arc<Golden>, act: u64, number: u64) -> Option<IntegrityReport> {
    let machine = Machine::fork(golden).unwrap();
    // Nothing here sends the interrupt that would end the wait.
    set_run_state(&machine, KVM_MP_STATE_RUNNABLE);
    with_live(&machine, |live| {
        live.core.vm.ram().write_obj(number, NUMBER).unwrap();
        live.core.vm.ram().write_obj(act, ACT).unwrap();
    });
    machine.resume().unwrap();
    let _ = machine.wait_checkpoint(0, LIMIT);
    machine.pause().ok()?;
    let plan = IntegrityPlan::default();
    let (_, report) = machine.reset_and_check(Strategy::CopyBack, &plan).ok()?;
    let report = report.unwrap();
    // Again, so that what a check leaves is seen too.
    let (_, again) = machine.reset_and_check(Strategy::CopyBack, &plan).unwrap();
    assert_eq!(again.unwrap().findings, [], "act {act}, number {number:#x}, second reset");
    Some(report)
}

fn nothing_halts(golden: &Arc<Golden>, act: u64, number: u64) {
    match after_act(golden, act, number) {
        None => println!("act {act}, number {number:#x}: the machine ended"),
        Some(report) => {
            println!("act {act}, number {number:#x}: {:?}", report.residues);
            assert_eq!(report.findings, [], "act {act}, number {number:#x}");
        }
    }
}

#[test]
fn no_delivery_mode_leaves_anything_that_halts() {
    const ASSERT: u64 = 1 << 14;
    const VECTOR: u64 = 0x41;
    const TO_SELF: u64 = 1 << 18;
    const TO_ALL: u64 = 2 << 18;
    let golden = golden();
    for mode in 0..8 {
        for destination in [TO_SELF, TO_ALL, 0] {
            nothing_halts(&golden, SEND, mode << 8 | destination | ASSERT | VECTOR);
        }
    }
}

#[test]
fn no_hypercall_leaves_anything_that_halts() {
    let golden = golden();
    for number in 0..16 {
        nothing_halts(&golden, VMCALL, number);
        nothing_halts(&golden, VMMCALL, number);
    }
}
