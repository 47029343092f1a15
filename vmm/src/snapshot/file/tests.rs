//! Snapshots of machines whose guest is a few bytes of code: they run on every KVM there is.

mod hostile;
mod saving;

use std::io::Cursor;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::format::{DIGEST_BYTES, PREAMBLE_BYTES, SECTION_HEAD_BYTES};
use super::*;
use crate::boot::{KernelImage, small_elf};
use crate::devices::block::DiskImage;
use crate::machine::{Machine, MachineConfig};

const LIMIT: Duration = Duration::from_secs(20);
const ENTRY: u64 = 0x10_0000;
/// Counts at 2 MiB and says so, for ever.
const COUNTER: [u8; 14] = [
    0x48, 0xc7, 0xc7, 0x00, 0x00, 0x20, 0x00, // mov rdi, 0x200000
    0x48, 0xff, 0x07, // 1: inc qword [rdi]
    0xe6, 0x80, // out 0x80, al
    0xeb, 0xf9, // jmp 1b
];

pub fn config() -> MachineConfig {
    let image = small_elf::elf(ENTRY, &COUNTER, COUNTER.len() as u64);
    let mut disk = vec![0; 21 * 512 + (64 << 10)];
    disk[5000..6000].fill(7);
    disk.iter_mut().rev().take(3).for_each(|byte| *byte = 9);
    MachineConfig {
        vcpus: 1,
        memory_mib: 64,
        kernel: Arc::new(KernelImage::from_bytes(&image).unwrap()),
        cmdline: "quiet".into(),
        disk: Some(Arc::new(DiskImage::from_bytes(&disk).unwrap())),
        guest_cid: 3,
        console_bytes: 1024,
    }
}

pub fn captured(config: MachineConfig) -> Arc<Golden> {
    captured_beyond(config, 0)
}

/// Captures a machine that has counted further than this.
fn captured_beyond(config: MachineConfig, count: u64) -> Arc<Golden> {
    let machine = Machine::create(config).unwrap();
    machine.boot().unwrap();
    machine.wait_checkpoint(count, LIMIT).unwrap();
    machine.pause().unwrap();
    machine.capture().unwrap()
}

/// One for all tests that only look.
pub fn golden() -> Arc<Golden> {
    static GOLDEN: OnceLock<Arc<Golden>> = OnceLock::new();
    Arc::clone(GOLDEN.get_or_init(|| captured(config())))
}

pub fn bytes_of(golden: &Golden) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::write(golden, &mut bytes).unwrap();
    bytes
}

pub fn read_bytes(bytes: &[u8], expect: &Expectation) -> Result<Golden, SnapshotError> {
    let length = bytes.len() as u64;
    read::read(Cursor::new(bytes), length, Some(expect)).map(|loaded| loaded.golden)
}

pub fn error(bytes: &[u8]) -> SnapshotError {
    read_bytes(bytes, &Expectation::default()).expect_err("not refused")
}

/// Where the parts of a snapshot lie, with the names that errors call them.
pub fn layout(bytes: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = PREAMBLE_BYTES + number(12) + DIGEST_BYTES;
    let mut parts = vec![("header", 0..at)];
    for name in ["cpuid", "vcpus", "machine", "devices", "memory", "disk"] {
        let end = at + SECTION_HEAD_BYTES + number(at + 16) + DIGEST_BYTES;
        parts.push((name, at..end));
        at = end;
    }
    parts.push(("end", at..at + DIGEST_BYTES));
    assert_eq!(at + DIGEST_BYTES, bytes.len());
    parts
}

#[test]
fn a_machine_from_a_file_is_the_one_that_was_saved_and_runs_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("golden.snap");
    for vcpus in [1, 4] {
        let golden = captured(MachineConfig { vcpus, ..config() });
        golden.save(&path).unwrap();
        let loaded = Golden::load(&path, &Expectation::default()).unwrap();
        assert_eq!(loaded.hash().unwrap(), golden.hash().unwrap());
        assert_eq!(loaded.devices, golden.devices);
        assert!(Diff::between(&golden, &loaded).unwrap().is_empty());
        let fork = Machine::fork(&loaded).unwrap();
        assert_eq!(fork.differences().unwrap().to_string(), "nothing");
        fork.resume().unwrap();
        let mark = fork.wait_checkpoint(3, LIMIT).unwrap();
        assert!(mark.count > 3);
        fork.pause().unwrap();
        assert!(!fork.differences().unwrap().is_empty());
        fork.reset(crate::Strategy::CopyBack).unwrap();
        assert_eq!(fork.differences().unwrap().to_string(), "nothing");
        assert_eq!(bytes_of(&loaded), bytes_of(&golden), "saved again");
    }
}

#[test]
fn memory_above_the_hole_and_connections_in_the_devices_come_back() {
    let golden = captured(MachineConfig { memory_mib: 3200, disk: None, ..config() });
    let bytes = bytes_of(&golden);
    assert!(bytes.len() < 1 << 20, "{} bytes for nearly nothing", bytes.len());
    let loaded = read_bytes(&bytes, &Expectation::default()).unwrap();
    assert_eq!(loaded.memory.regions(), golden.memory.regions());
    assert_eq!(loaded.hash().unwrap(), golden.hash().unwrap());
}

#[test]
fn the_hash_changes_with_memory_and_disk() {
    let one = golden();
    let memory = one.memory.bytes(&one.memory.regions()[0]);
    let count = u64::from_le_bytes(memory[0x20_0000..][..8].try_into().unwrap());
    let other = captured_beyond(config(), count);
    assert_ne!(one.hash().unwrap(), other.hash().unwrap());
    let diff = Diff::between(&one, &other).unwrap();
    let counter = diff.memory.iter().find(|range| range.start == 0x20_0000);
    assert_eq!(counter.map(|range| range.pages), Some(1), "{diff:?}");
    assert!(diff.disk.is_empty() && diff.made_with.is_empty());
}

#[test]
fn differences_are_named() {
    let one = golden();
    let mut disk = one.disk.as_ref().unwrap().read_all().unwrap();
    disk[20_000] = 1;
    let other = captured(MachineConfig {
        disk: Some(Arc::new(DiskImage::from_bytes(&disk).unwrap())),
        cmdline: "loud".into(),
        memory_mib: 128,
        vcpus: 2,
        ..config()
    });
    let diff = Diff::between(&one, &other).unwrap();
    let made: Vec<_> = diff.made_with.iter().map(|change| change.name.as_str()).collect();
    for name in ["command line", "memory in MiB", "vCPUs", "rootfs SHA-256", "disk SHA-256"] {
        assert!(made.contains(&name), "{name} is missing in {made:?}");
    }
    assert_eq!(diff.disk, [super::Range { start: 16 << 10, pages: 1 }]);
    assert!(diff.vcpus.iter().any(|change| change.change.name == "tsc"), "{:?}", diff.vcpus);
    let json = serde_json::to_value(&diff).unwrap();
    assert_eq!(json["disk"][0]["start"], 16 << 10);
    assert!(json["vcpus"][0]["name"].is_string());
}

#[test]
fn information_has_everything_that_a_snapshot_is_bound_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("golden.snap");
    let golden = golden();
    golden.save(&path).unwrap();
    let info = Info::read(&path).unwrap();
    assert_eq!(info.golden_hash, format::hex(&golden.hash().unwrap()));
    assert_eq!(info.kernel_sha256, format::hex(&config().kernel.sha256()));
    assert_eq!((info.cmdline.as_str(), info.memory_mib, info.vcpus), ("quiet", 64, 1));
    assert_eq!(info.rootfs_sha256, info.disk_sha256, "nothing was written");
    assert_eq!(info.disk_blocks, 2);
    assert!((4..40).contains(&info.memory_pages), "{info:?}");
    assert_eq!(info.unfit_here, None);
    assert_eq!(info.file_bytes, std::fs::metadata(&path).unwrap().len());
    assert_eq!(info.sections.len(), 6);
    assert!(!info.processor.vendor.is_empty());
}

/// Bar: 5 ms. Prints what it took; `cargo test --release -p vmm -- --ignored --nocapture load_time`.
#[test]
#[ignore = "a measurement"]
fn load_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("golden.snap");
    let entered = |fork: &Machine, start: std::time::Instant| {
        fork.resume().unwrap();
        loop {
            if let Some(at) = fork.entered() {
                break at.duration_since(start);
            }
        }
    };
    for pages in [64, 4096, 24 << 10] {
        let kernel = Arc::new(crate::micro::kernel(pages).unwrap());
        let golden = captured(MachineConfig { memory_mib: 128, kernel, disk: None, ..config() });
        golden.save(&path).unwrap();
        let mut forks: Vec<Duration> = (0..50)
            .map(|_| {
                let start = std::time::Instant::now();
                entered(&Machine::fork(&golden).unwrap(), start)
            })
            .collect();
        forks.sort();
        let mut took: Vec<[Duration; 3]> = (0..50)
            .map(|_| {
                let start = std::time::Instant::now();
                let loaded = Golden::load(&path, &Expectation::default()).unwrap();
                let load = start.elapsed();
                let fork = Machine::fork(&loaded).unwrap();
                let forked = start.elapsed();
                [entered(&fork, start), load, forked]
            })
            .collect();
        took.sort();
        let [best, median, worst] = [took[0], took[25], took[49]];
        println!("{pages} pages, [entered, loaded, forked]: {best:?} {median:?} {worst:?}");
        println!(
            "  forked from memory and entered: {:?} {:?} {:?}",
            forks[0], forks[25], forks[49]
        );
    }
}
