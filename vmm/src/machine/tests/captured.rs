//! Captured machines with a busy guest, and what can happen to them before a reset.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::tiny_guest::config;
use crate::kvm::DirtyTracking;
use crate::machine::{Machine, MachineConfig, Phase};
use crate::snapshot::{Difference, Strategy};
use crate::{Golden, KvmError, KvmKind, MachineError, ResetError};

pub const STRATEGIES: [Strategy; 4] = [
    Strategy::CopyBack,
    Strategy::DropPrivate,
    Strategy::Hybrid { copy_pages: 10 },
    Strategy::FullCopy,
];

/// Counts in 64 pages from 2 MiB on and in RBX, for ever.
pub const BUSY: [u8; 34] = [
    0x48, 0xc7, 0xc7, 0x00, 0x00, 0x20, 0x00, // mov rdi, 0x200000
    0x48, 0xc7, 0xc1, 0x40, 0x00, 0x00, 0x00, // mov rcx, 64
    0x48, 0xff, 0x07, // 1: inc qword [rdi]
    0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi, 0x1000
    0x48, 0xff, 0xc9, // dec rcx
    0x75, 0xf1, // jnz 1b
    0x48, 0xff, 0xc3, // inc rbx
    0xeb, 0xde, // jmp 0
];

/// Lets a busy guest run until it has counted in every page, however long this thread's share of
/// the processor lets that take. It may have stood in the middle of its pages: only the second
/// count in the last one says that it was in all of them.
pub fn run_a_while(machine: &Machine) {
    let last_count = || {
        let mut bytes = [0; 8];
        machine.read_memory(0x20_0000 + 63 * 0x1000, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let (before, until) = (last_count(), Instant::now() + Duration::from_secs(20));
    loop {
        let_run(machine);
        if last_count() > before + 1 {
            return;
        }
        assert!(Instant::now() < until, "the guest does not get anywhere");
    }
}

/// Lets any guest run a little, or not at all on a busy host.
/// Lets the guest run a while, then does `reset`. Software KVM writes on in a dirty ring that is full,
/// which the reset reports and which ends the machine: another fork of `golden` takes its place then.
pub fn run_and<T>(
    machine: &mut Machine,
    golden: &Arc<Golden>,
    reset: impl Fn(&Machine) -> Result<T, MachineError>,
) -> T {
    const MAX_OVERRUNS: u32 = 50;
    for _ in 0..MAX_OVERRUNS {
        run_a_while(machine);
        match reset(machine) {
            Err(MachineError::Reset(ResetError::Kvm(KvmError::DirtyRingOverran))) => {
                assert_eq!(crate::probe().unwrap().kind, KvmKind::Software);
                *machine = Machine::fork_with(golden, DirtyTracking::Ring).unwrap();
            }
            result => return result.unwrap(),
        }
    }
    panic!("the ring overran {MAX_OVERRUNS} times");
}

pub fn let_run(machine: &Machine) {
    machine.resume().unwrap();
    sleep(Duration::from_millis(20));
    machine.pause().unwrap();
}

pub fn captured(config: MachineConfig) -> Machine {
    let machine = Machine::create(config).unwrap();
    machine.boot().unwrap();
    sleep(Duration::from_millis(20));
    machine.pause().unwrap();
    machine.capture().unwrap();
    machine
}

pub fn with_disk() -> MachineConfig {
    let disk = crate::devices::block::DiskImage::from_bytes(&vec![7; 64 << 10]).unwrap();
    MachineConfig { disk: Some(Arc::new(disk)), ..config(&BUSY) }
}

pub fn differences(machine: &Machine) -> Vec<Difference> {
    machine.differences().unwrap().0
}

pub fn write_disk(machine: &Machine) {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    live.core.devices.block().unwrap().overlay_mut().write(5000, &[1; 4000]).unwrap();
}

/// Changes what this guest does not change by itself.
pub fn disturb(machine: &Machine) {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!() };
    live.core.devices.bus.pio_write(0x3ff, &[0x5a]);
    let mut pit = live.core.vm.fd().get_pit2().unwrap();
    pit.channels[2].mode = 3;
    pit.channels[2].count = 1234;
    live.core.vm.fd().set_pit2(&pit).unwrap();
}
