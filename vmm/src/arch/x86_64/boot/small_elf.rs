//! Kernel images of a few bytes, for guests without a kernel.

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;

/// A minimal x86-64 ELF file with one loadable segment of `payload` at `address`, which takes
/// `in_memory` bytes of memory and is entered at its first byte (System V ABI, chapters 4 and 5).
pub fn elf(address: u64, payload: &[u8], in_memory: u64) -> Vec<u8> {
    let mut bytes = vec![0_u8; HEADER_BYTES + PROGRAM_HEADER_BYTES];
    let mut put = |at: usize, value: &[u8]| {
        for (slot, byte) in bytes.iter_mut().skip(at).zip(value) {
            *slot = *byte;
        }
    };
    put(0, b"\x7fELF\x02\x01");
    // e_machine, e_entry, e_phoff, e_phentsize, e_phnum
    put(18, &[62]);
    put(24, &address.to_le_bytes());
    put(32, &[HEADER_BYTES as u8]);
    put(54, &[PROGRAM_HEADER_BYTES as u8]);
    put(56, &[1]);
    // p_type, p_offset, p_paddr, p_filesz, p_memsz
    put(64, &[1]);
    put(72, &((HEADER_BYTES + PROGRAM_HEADER_BYTES) as u64).to_le_bytes());
    put(88, &address.to_le_bytes());
    put(96, &(payload.len() as u64).to_le_bytes());
    put(104, &in_memory.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
