//! A target with a bug in it: it shows that a bug is found, told and kept.

/// A value that a fuzzer does not come upon by chance.
const MAGIC: u32 = 0x6275_6721;

pub fn run(input: &[u8]) {
    let start = input.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    assert_ne!(start, Some(MAGIC), "this is the planted bug");
}
