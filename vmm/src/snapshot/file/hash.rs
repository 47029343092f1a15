//! One number for a golden state.

use sha2::{Digest, Sha256};

use super::SnapshotError;
use super::format::{FileHeader, PAGE, encode};
use super::{sparse, write};
use crate::snapshot::Golden;

/// Keeps this hash apart from hashes of anything else.
const DOMAIN: &[u8] = b"brainstorm golden state 2\n";

/// See [`Golden::hash`].
pub fn of(golden: &Golden) -> Result<[u8; 32], SnapshotError> {
    if let Some(known) = golden.hash.get() {
        return Ok(*known);
    }
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    let header = encode(&FileHeader::of(golden)?)?;
    let sections = write::small_sections(golden)?;
    for part in std::iter::once(&header).chain(sections.iter().map(|(_, content)| content)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let file = golden.memory.sealed().file();
    for region in golden.memory.regions() {
        let (offset, length) = (region.offset as u64, region.length as u64);
        for run in sparse::runs(file, offset, length)? {
            let (start, count) = run.bytes(length);
            let mut address = region.start + start;
            sparse::for_each_piece(file, (offset + start, count), |piece| {
                for page in piece.chunks(PAGE) {
                    hash.update(address.to_le_bytes());
                    hash.update(page);
                    address += page.len() as u64;
                }
                Ok::<(), SnapshotError>(())
            })?;
        }
    }
    Ok(*golden.hash.get_or_init(|| hash.finalize().into()))
}
