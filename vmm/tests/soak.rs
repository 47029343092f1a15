//! Thousands of resets and machines in a row, and many machines at once: nothing is left of any of
//! them. The guest is a few bytes of code, so this runs on every KVM there is.
//!
//! `BSM_SOAK_TURNS` says how many resets there are; otherwise 1000. There are a tenth as many boots
//! and forks, and a thousandth as many times 32 machines at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says so by failing")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use vmm::{DiskImage, Golden, IntegrityPlan, Machine, MachineConfig, Strategy, micro};

const LIMIT: Duration = Duration::from_secs(20);
const DISK_BYTES: usize = 256 << 10;
const BLOCK: usize = 4096;
const PAGES: u32 = 64;
const MEMORY_MIB: u32 = 64;
/// What an allocator may keep, in KiB and in mappings.
const KEPT_KIB: u64 = 16 << 10;
const KEPT_MAPPINGS: u64 = 8;
const STRATEGIES: [Strategy; 4] = [
    Strategy::CopyBack,
    Strategy::DropPrivate,
    Strategy::Hybrid { copy_pages: 10 },
    Strategy::FullCopy,
];

/// Tests here count what the process holds, so only one may run.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn turns() -> u32 {
    std::env::var("BSM_SOAK_TURNS").map_or(1000, |text| text.parse().unwrap())
}

/// Descriptors, threads, mappings, and resident memory in KiB.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: u64,
    threads: u64,
    mappings: u64,
    resident: u64,
}

impl Held {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        Self {
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count() as u64,
            threads: field("Threads:"),
            mappings: std::fs::read_to_string("/proc/self/maps").unwrap().lines().count() as u64,
            resident: field("VmRSS:"),
        }
    }

    fn leaks(&self, before: &Self) -> bool {
        self.descriptors > before.descriptors
            || self.threads > before.threads
            || self.mappings > before.mappings + KEPT_MAPPINGS
            || self.resident > before.resident + KEPT_KIB
    }
}

/// Does something again and again: after a tenth of the turns, what the process holds stays.
fn leaves_nothing(what: &str, turns: u32, mut once: impl FnMut(u32)) {
    let warm = (turns / 10).max(1);
    (0..warm).for_each(&mut once);
    let before = Held::now();
    (warm..turns).for_each(once);
    let after = Held::now();
    println!("{turns} {what}: {before:?}, then {after:?}");
    assert!(!after.leaks(&before), "{what}: {before:?}, then {after:?}");
}

fn config() -> MachineConfig {
    MachineConfig::builder(micro::kernel(PAGES).unwrap())
        .memory_mib(MEMORY_MIB)
        .disk(DiskImage::from_bytes(&vec![7; DISK_BYTES]).unwrap())
        .console_bytes(1024)
        .build()
        .unwrap()
}

fn golden() -> (Machine, Arc<Golden>) {
    let machine = Machine::create(config()).unwrap();
    machine.boot_paused().unwrap();
    let golden = machine.capture().unwrap();
    (machine, golden)
}

/// Lets the guest dirty its pages, and pauses it.
fn run(machine: &Machine) {
    let seen = machine.checkpoint().map_or(0, |mark| mark.count);
    machine.resume().unwrap();
    machine.wait_checkpoint(seen, LIMIT).unwrap();
    machine.pause().unwrap();
}

#[test]
fn thousands_of_resets_leave_nothing() {
    let _alone = alone();
    let (machine, _golden) = golden();
    let plan = IntegrityPlan::default();
    leaves_nothing("resets", turns(), |turn| {
        let strategy = STRATEGIES[turn as usize % STRATEGIES.len()];
        run(&machine);
        let block = turn as usize % (DISK_BYTES / BLOCK);
        machine.write_disk((block * BLOCK) as u64, &turn.to_le_bytes()).unwrap();
        machine.reset(strategy).unwrap();
        let report = machine.check_after_reset(&plan).unwrap();
        assert_eq!(report.findings, [], "{turn}, {}", strategy.name());
        if turn % 500 < 4 {
            assert_eq!(machine.differences().unwrap().0, [], "{turn}, {}", strategy.name());
        }
    });
}

#[test]
fn hundreds_of_machines_leave_nothing() {
    let _alone = alone();
    leaves_nothing("boots", turns() / 10, |_| {
        let machine = Machine::create(config()).unwrap();
        machine.boot_paused().unwrap();
        run(&machine);
    });
    let (_machine, golden) = golden();
    leaves_nothing("forks", turns() / 10, |_| run(&Machine::fork(&golden).unwrap()));
}

#[test]
fn thirty_two_machines_at_once_share_nothing_and_leave_nothing() {
    let _alone = alone();
    let (_machine, golden) = golden();
    leaves_nothing("times 32 machines", (turns() / 1000).max(3), |_| {
        let machines: Vec<_> = (0..32_u8).map(|_| Machine::fork(&golden).unwrap()).collect();
        thread::scope(|scope| {
            for (own, machine) in (1..).zip(&machines) {
                scope.spawn(move || side_by_side(machine, own));
            }
        });
    });
}

/// Marks its disk, runs, sees no mark but its own, and none after a reset.
fn side_by_side(machine: &Machine, own: u8) {
    let block = usize::from(own) * BLOCK;
    let mut expected = vec![7; DISK_BYTES];
    expected[block..block + BLOCK].fill(own ^ 0x80);
    for strategy in STRATEGIES {
        run(machine);
        machine.write_disk(block as u64, &expected[block..block + BLOCK]).unwrap();
        let mut disk = vec![0; DISK_BYTES];
        machine.read_disk(0, &mut disk).unwrap();
        assert!(disk == expected, "machine {own} sees what another one wrote");
        machine.reset(strategy).unwrap();
    }
    assert_eq!(machine.differences().unwrap().0, [], "machine {own}");
}

#[test]
fn what_is_left_behind_is_seen() {
    let _alone = alone();
    let (_machine, golden) = golden();
    let before = Held::now();
    let kept: Vec<_> = (0..4).map(|_| Machine::fork(&golden).unwrap()).collect();
    let after = Held::now();
    assert!(after.descriptors > before.descriptors && after.threads > before.threads);
    assert!(after.leaks(&before));
    drop(kept);
    assert!(Held::now().descriptors <= before.descriptors);
}
