//! What a guest may write, a reset restores.

use std::time::Duration;

use kvm_bindings::{Msrs, kvm_msr_entry};

use super::captured::{STRATEGIES, captured, let_run};
use super::tiny_guest::{SPIN, config};
use crate::kvm::Vcpu;
use crate::machine::*;

fn with_first<T>(machine: &Machine, look: impl FnOnce(&mut Vcpu, &Golden) -> T) -> T {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    live.apply_staged_regs(0).unwrap();
    let golden = live.golden().unwrap();
    let mut vcpu = live.core.vcpus[0].vcpu();
    look(&mut vcpu, &golden)
}

fn read(vcpu: &Vcpu, index: u32) -> Option<u64> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).unwrap();
    (vcpu.fd.get_msrs(&mut msrs).unwrap() == 1).then(|| msrs.as_slice()[0].data)
}

/// Changes an MSR to some other value that KVM takes. False where it takes none.
fn change(vcpu: &Vcpu, index: u32) -> bool {
    let Some(value) = read(vcpu, index) else { return false };
    [1, 2, 4, 8, 1 << 11, 1 << 12, 1 << 20].into_iter().any(|bit| {
        let entry = kvm_msr_entry { index, data: value ^ bit, ..Default::default() };
        let msrs = Msrs::from_entries(&[entry]).unwrap();
        vcpu.fd.set_msrs(&msrs).unwrap() == 1 && read(vcpu, index) != Some(value)
    })
}

#[test]
fn every_msr_that_a_guest_may_write_is_restored() {
    let machine = captured(config(&SPIN));
    for strategy in STRATEGIES {
        let changed = with_first(&machine, |vcpu, golden| {
            let open = golden.vcpus[0].open().to_vec();
            assert!(open.len() >= 12, "{open:x?}");
            assert!(!open.contains(&0x1d9), "DEBUGCTL");
            open.into_iter().filter(|index| change(vcpu, *index)).collect::<Vec<_>>()
        });
        assert!(changed.len() >= 8, "{changed:x?}");
        let found = machine.state_differences().unwrap();
        assert_ne!(found.0, [], "what was changed is seen");
        machine.reset(strategy).unwrap();
        assert_eq!(machine.differences().unwrap().0, [], "{changed:x?}");
    }
}

/// `mov ecx, 0x1d9; xor eax, eax; xor edx, edx`, once there is something at 2 MiB; then `wrmsr`.
const WRITE_DEBUGCTL: [u8; 28] = [
    0xbf, 0x00, 0x00, 0x20, 0x00, // mov edi, 0x200000
    0x48, 0x83, 0x3f, 0x00, // 1: cmp qword [rdi], 0
    0x74, 0xfa, // je 1b
    0xb9, 0xd9, 0x01, 0x00, 0x00, // mov ecx, 0x1d9
    0x31, 0xc0, // xor eax, eax
    0x31, 0xd2, // xor edx, edx
    0x0f, 0x30, // wrmsr
    0xe6, 0x80, // out 0x80, al
    0xeb, 0xfe, // 2: jmp 2b
    0x90, 0x90,
];

#[test]
fn a_guest_cannot_write_what_makes_its_processor_record_branches() {
    let machine = captured(config(&WRITE_DEBUGCTL));
    {
        let phase = machine.lock();
        let Phase::Paused(live) = &*phase else { panic!("not paused") };
        let at = vm_memory::GuestAddress(0x20_0000);
        vm_memory::Bytes::write_obj(live.core.vm.ram().as_ref(), 1_u64, at).unwrap();
    }
    machine.resume().unwrap();
    let stopped = machine.wait_stopped(Duration::from_secs(20));
    assert_eq!(stopped, Some(StopReason::TripleFault));
}

/// Needs an AMD processor with LBRV, on a kernel that lists the LBR registers: there nothing of them
/// may differ after a reset.
#[test]
fn branch_records_do_not_pass_a_reset() {
    let machine = captured(config(&SPIN));
    let records = with_first(&machine, |vcpu, _| {
        (0x1db..=0x1de).filter(|index| read(vcpu, *index).is_some()).count()
    });
    println!("needs an AMD processor with LBRV: this vCPU has {records} of 4 branch records");
    for _ in 0..10 {
        let_run(&machine);
        machine.reset(Strategy::CopyBack).unwrap();
        assert_eq!(machine.differences().unwrap().0, []);
    }
}

/// The thread that enters a vCPU separates commands, each vCPU's own.
#[test]
fn every_vcpu_begins_each_command_behind_a_barrier() {
    let machine = captured(MachineConfig { vcpus: 2, ..config(&SPIN) });
    let due = || -> Vec<bool> {
        let phase = machine.lock();
        let Phase::Paused(live) = &*phase else { panic!("not paused") };
        live.core.vcpus.iter().map(|vcpu| vcpu.vcpu().is_barrier_due()).collect()
    };
    assert_eq!(due(), [false, false]);
    for _ in 0..3 {
        machine.reset(Strategy::CopyBack).unwrap();
        assert_eq!(due(), [true, true]);
        machine.resume().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            std::thread::sleep(Duration::from_millis(5));
            machine.pause().unwrap();
            if due() == [false, false] {
                break;
            }
            assert!(Instant::now() < deadline, "a vCPU was entered without a barrier");
            machine.resume().unwrap();
        }
    }
}
