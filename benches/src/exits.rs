//! What one exit from the guest and back costs: the unit everything nested is made of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vmm::{KernelImage, Machine, MachineConfig, StopReason};

const ENTRY: u64 = 0x10_0000;
const EXITS: u32 = 2000;
const RUNS: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);

/// `mov ecx, n; 1: out 0x80, al; dec ecx; jnz 1b; mov al, 0xfe; out 0x64, al`: port 0x80 belongs
/// to no device, so all that is measured is leaving the guest, looking up the port, and entering.
fn code(exits: u32) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(exits.to_le_bytes());
    code.extend([0xe6, 0x80, 0xff, 0xc9, 0x75, 0xfa, 0xb0, 0xfe, 0xe6, 0x64]);
    code
}

/// A minimal ELF image (System V ABI) with one segment.
fn image(code: &[u8]) -> Vec<u8> {
    let length = code.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [ENTRY, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [120, ENTRY, ENTRY, length, length, 0x1000] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(code);
    bytes
}

/// The cost of one exit, from runs of many: the difference between a long and a short run, so
/// that starting and stopping the machine cancel out.
pub fn pio() -> Result<Vec<Duration>> {
    let long = Arc::new(KernelImage::from_bytes(&image(&code(EXITS + 1)))?);
    let short = Arc::new(KernelImage::from_bytes(&image(&code(1)))?);
    (0..RUNS).map(|_| Ok(run(&long)?.saturating_sub(run(&short)?) / EXITS)).collect()
}

fn run(kernel: &Arc<KernelImage>) -> Result<Duration> {
    let config =
        MachineConfig::builder(Arc::clone(kernel)).memory_mib(64).console_bytes(0).build()?;
    let machine = Machine::create(config)?;
    machine.boot()?;
    let start = Instant::now();
    let reason = machine.wait_stopped(LIMIT);
    ensure!(reason == Some(StopReason::GuestReset), "the guest ended with {reason:?}");
    Ok(start.elapsed())
}
