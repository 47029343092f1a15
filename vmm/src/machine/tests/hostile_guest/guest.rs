//! A guest of a few bytes that touches memory, registers and ports as a script in its memory says.

use crate::arch::layout;

/// Zero: the guest waits. Anything else: it does what the script says, and writes zero here.
pub const GO: u64 = 0x20_0000;
/// What it read, eight bytes each.
pub const RESULTS: u64 = 0x31_0000;
/// Steps of 24 bytes: what to do, where, with which value.
pub const SCRIPT: u64 = 0x40_0000;
/// Bytes of a step.
const STEP_BYTES: u64 = 24;
/// Steps that fit before the rings.
pub const MOST_STEPS: usize = (4 << 20) / STEP_BYTES as usize;

/// Maps the fourth GiB, where the registers are, with a page directory at 0x30_0000. Then waits,
/// does the steps of the script one after the other, writes to the checkpoint port, and waits again.
pub const CODE: [u8; 170] = [
    0xbf, 0x18, 0xa0, 0x00, 0x00, // mov edi, PDPT + 24
    0x48, 0xc7, 0x07, 0x03, 0x00, 0x30, 0x00, // mov qword [rdi], 0x300000 | present, writable
    0xbf, 0x00, 0x04, 0x30, 0x00, // mov edi, 0x300000 + 8 * 128
    0xb8, 0x9b, 0x00, 0x00, 0xd0, // mov eax, 0xd0000000 | large, uncached, present, writable
    0x48, 0x89, 0x07, // mov [rdi], rax
    0xbb, 0x00, 0x00, 0x20, 0x00, // mov ebx, GO
    0xf3, 0x90, // wait: pause
    0x83, 0x3b, 0x00, // cmp dword [rbx], 0
    0x74, 0xf9, // je wait
    0xbe, 0x00, 0x00, 0x40, 0x00, // mov esi, SCRIPT
    0xbf, 0x00, 0x00, 0x31, 0x00, // mov edi, RESULTS
    0x8b, 0x0e, // next: mov ecx, [rsi]
    0x48, 0x8b, 0x56, 0x08, // mov rdx, [rsi + 8]
    0x48, 0x8b, 0x46, 0x10, // mov rax, [rsi + 16]
    0x80, 0xf9, 0x01, 0x75, 0x02, // cmp cl, 1; jne 2
    0x88, 0x02, // mov [rdx], al
    0x80, 0xf9, 0x02, 0x75, 0x03, // cmp cl, 2; jne 3
    0x66, 0x89, 0x02, // mov [rdx], ax
    0x80, 0xf9, 0x03, 0x75, 0x02, // cmp cl, 3; jne 4
    0x89, 0x02, // mov [rdx], eax
    0x80, 0xf9, 0x04, 0x75, 0x03, // cmp cl, 4; jne 5
    0x48, 0x89, 0x02, // mov [rdx], rax
    0x80, 0xf9, 0x05, 0x75, 0x0a, // cmp cl, 5; jne 6
    0x0f, 0xb6, 0x02, // movzx eax, byte [rdx]
    0x48, 0x89, 0x07, // mov [rdi], rax
    0x48, 0x83, 0xc7, 0x08, // add rdi, 8
    0x80, 0xf9, 0x06, 0x75, 0x09, // cmp cl, 6; jne 7
    0x8b, 0x02, // mov eax, [rdx]
    0x48, 0x89, 0x07, // mov [rdi], rax
    0x48, 0x83, 0xc7, 0x08, // add rdi, 8
    0x80, 0xf9, 0x07, 0x75, 0x03, // cmp cl, 7; jne 8
    0x66, 0x01, 0x02, // add [rdx], ax
    0x80, 0xf9, 0x08, 0x75, 0x01, // cmp cl, 8; jne 9
    0xee, // out dx, al
    0x80, 0xf9, 0x09, 0x74, 0x12, // cmp cl, 9; je repeat
    0x48, 0x83, 0xc6, 0x18, // add rsi, 24
    0x85, 0xc9, 0x75, 0xa0, // test ecx, ecx; jnz next
    0xc7, 0x03, 0x00, 0x00, 0x00, 0x00, // mov dword [rbx], 0
    0xe6, 0x80, // out 0x80, al
    0xeb, 0x85, // jmp wait
    0x48, 0xff, 0xc8, // repeat: dec rax
    0x48, 0x89, 0x46, 0x10, // mov [rsi + 16], rax
    0x48, 0x8d, 0x76, 0x18, // lea rsi, [rsi + 24]
    0x48, 0x0f, 0x45, 0xf2, // cmovnz rsi, rdx
    0xeb, 0x85, // jmp next
];

/// What the guest does.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Put8(u64, u8),
    Put16(u64, u16),
    Put32(u64, u32),
    Put64(u64, u64),
    Get8(u64),
    Get32(u64),
    /// Adds to the 16 bits at an address.
    Add16(u64, u16),
    /// Writes to a port.
    Out(u16, u8),
    /// Goes back to a step, by its number, until it has come here as often as this.
    Repeat(usize, u64),
}

/// A script as it lies in memory.
pub fn script(steps: &[Step]) -> Vec<u8> {
    assert!(steps.len() < MOST_STEPS);
    let mut bytes = Vec::new();
    let end = (0, 0, 0);
    for (what, place, value) in steps.iter().map(encoded).chain([end]) {
        bytes.extend([what, place, value].iter().flat_map(|word: &u64| word.to_le_bytes()));
    }
    bytes
}

fn encoded(step: &Step) -> (u64, u64, u64) {
    match *step {
        Step::Put8(at, value) => (1, at, value.into()),
        Step::Put16(at, value) => (2, at, value.into()),
        Step::Put32(at, value) => (3, at, value.into()),
        Step::Put64(at, value) => (4, at, value),
        Step::Get8(at) => (5, at, 0),
        Step::Get32(at) => (6, at, 0),
        Step::Add16(at, value) => (7, at, value.into()),
        Step::Out(port, value) => (8, port.into(), value.into()),
        Step::Repeat(to, times) => (9, SCRIPT + STEP_BYTES * to as u64, times),
    }
}

/// A register of the device in a slot.
pub fn register(slot: u64, offset: u64) -> u64 {
    layout::VIRTIO_MMIO + slot * layout::VIRTIO_MMIO_STRIDE + offset
}
