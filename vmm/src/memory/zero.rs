//! Tells memory that holds nothing but zeros.

/// Whether all bytes are zero. True for no bytes.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
