//! Guests of a few bytes of long-mode code.

use std::sync::Arc;

use crate::boot::{KernelImage, small_elf};
use crate::machine::{Machine, MachineConfig};

/// Where the guest's code lies.
pub const ENTRY: u64 = 0x10_0000;

/// `mov al, byte; mov dx, port; out dx, al`
pub fn out(port: u16, byte: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0xb0, byte, 0x66, 0xba, low, high, 0xee]
}

pub fn print(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|byte| out(0x3f8, byte)).collect()
}

/// `1: pause; jmp 1b`
pub const SPIN: [u8; 4] = [0xf3, 0x90, 0xeb, 0xfc];
/// `ud2`, with no interrupt table to catch it.
pub const FAULT: [u8; 2] = [0x0f, 0x0b];

pub fn config(code: &[u8]) -> MachineConfig {
    let image = small_elf::elf(ENTRY, code, code.len() as u64);
    MachineConfig {
        vcpus: 1,
        memory_mib: 64,
        kernel: Arc::new(KernelImage::from_bytes(&image).unwrap()),
        cmdline: String::new(),
        disk: None,
        guest_cid: 3,
        console_bytes: 1024,
    }
}

pub fn machine(code: &[u8]) -> Machine {
    Machine::create(config(code)).unwrap()
}
