//! Images for tests.

/// A minimal x86-64 ELF with one segment of `payload` at `address`.
pub fn elf(address: u64, payload: &[u8], in_memory: u64) -> Vec<u8> {
    let mut bytes = vec![0_u8; 64 + 56];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18] = 62;
    bytes[24..32].copy_from_slice(&address.to_le_bytes());
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    bytes[64] = 1;
    bytes[72..80].copy_from_slice(&120_u64.to_le_bytes());
    bytes[88..96].copy_from_slice(&address.to_le_bytes());
    bytes[96..104].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes[104..112].copy_from_slice(&in_memory.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
