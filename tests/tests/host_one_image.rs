//! Two agents on one disk image: each has loaded it for itself, so neither sees what the other writes,
//! nor what becomes of the file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use vmm::{DiskImage, IntegrityPlan, Machine, MachineConfig, Strategy, micro};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 32;
/// Tells the other process which image it has in common with this one.
const IMAGE: &str = "BSM_TEST_IMAGE";
const GOLDEN: u8 = 1;

fn machine(image: &Path) -> Machine {
    let config = MachineConfig::builder(micro::kernel(16).unwrap())
        .memory_mib(64)
        .disk(DiskImage::open(image).unwrap())
        .console_bytes(1024)
        .build()
        .unwrap();
    let machine = Machine::create(config).unwrap();
    machine.boot_paused().unwrap();
    machine.capture().unwrap();
    machine
}

fn write(machine: &Machine, mark: u8) {
    for block in 0..BLOCKS {
        machine.write_disk(block * BLOCK, &[mark; BLOCK as usize]).unwrap();
    }
}

/// What every byte of the disk is; `None` when they differ.
fn content(machine: &Machine) -> Option<u8> {
    let mut bytes = vec![0; (BLOCKS * BLOCK) as usize];
    machine.read_disk(0, &mut bytes).unwrap();
    let first = bytes[0];
    bytes.iter().all(|byte| *byte == first).then_some(first)
}

fn assert_verified(machine: &Machine) {
    assert_eq!(machine.check_before_reset().unwrap(), []);
    let plan = IntegrityPlan::deep();
    let (_, check) = machine.reset_and_check(Strategy::CopyBack, &plan).unwrap();
    assert_eq!(check.unwrap().findings, []);
    assert_eq!(content(machine), Some(GOLDEN));
}

/// The other agent: does something only when it is started by the test below.
#[test]
fn as_the_other_agent() {
    let Some(image) = std::env::var_os(IMAGE) else { return };
    let machine = machine(Path::new(&image));
    write(&machine, 2);
    println!("\nwritten");
    std::io::stdin().lines().next().unwrap().unwrap();
    assert_eq!(content(&machine), Some(2));
    assert_verified(&machine);
}

#[test]
fn neither_of_two_agents_sees_what_the_other_writes() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("rootfs.ext4");
    let golden = vec![GOLDEN; (BLOCKS * BLOCK) as usize];
    fs::write(&image, &golden).unwrap();
    let machine = machine(&image);
    write(&machine, 3);

    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_the_other_agent", "--nocapture"])
        .env(IMAGE, &image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "written"), "the other agent did not get far");
    assert_eq!(content(&machine), Some(3));
    assert_eq!(fs::read(&image).unwrap(), golden);
    assert_verified(&machine);
    write(&machine, 4);

    // The file itself is written to: only an image that is opened from now on reads that.
    fs::write(&image, vec![9; golden.len()]).unwrap();
    assert_eq!(content(&machine), Some(4));
    assert_verified(&machine);
    other.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    assert!(said.any(|line| line.unwrap().starts_with("test result: ok. 1 passed")));
    assert!(other.wait().unwrap().success());
    assert_eq!(content(&self::machine(&image)), Some(9));
}
