//! Searches all memory and the whole disk of a guest for bytes.

use memchr::memmem;
use vmm::{Machine, MachineError};

const PIECE: usize = 4 << 20;
/// First byte after the RAM below the hole for devices.
const HOLE_START: u64 = 0xc000_0000;
/// First byte of the RAM above it.
const HIGH_START: u64 = 0x1_0000_0000;

/// Makes a marker that occurs nowhere by chance.
pub fn marker() -> String {
    format!("bsm-marker-{}", uuid::Uuid::new_v4().simple())
}

/// Whether `marker` is in `bytes`.
pub fn occurs(bytes: &[u8], marker: &str) -> bool {
    memmem::find(bytes, marker.as_bytes()).is_some()
}

/// Which of `markers` are in the memory of a paused machine.
pub fn memory(
    machine: &Machine,
    memory_mib: u32,
    markers: &[&str],
) -> Result<Vec<bool>, MachineError> {
    let bytes = u64::from(memory_mib) << 20;
    let low = 0..bytes.min(HOLE_START);
    let high = HIGH_START..HIGH_START + bytes.saturating_sub(HOLE_START);
    let mut found = vec![false; markers.len()];
    for range in [low, high] {
        scan(range, markers, &mut found, |at, piece| machine.read_memory(at, piece))?;
    }
    Ok(found)
}

/// Which of `markers` are on the disk of a paused machine.
pub fn disk(machine: &Machine, bytes: u64, markers: &[&str]) -> Result<Vec<bool>, MachineError> {
    let mut found = vec![false; markers.len()];
    scan(0..bytes, markers, &mut found, |at, piece| machine.read_disk(at, piece))?;
    Ok(found)
}

/// Reads `range` in pieces that overlap by the longest marker, so that every marker is whole in one
/// of them.
fn scan(
    range: std::ops::Range<u64>,
    markers: &[&str],
    found: &mut [bool],
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), MachineError>,
) -> Result<(), MachineError> {
    let overlap = markers.iter().map(|marker| marker.len()).max().unwrap_or_default() as u64;
    let mut buffer = vec![0; PIECE];
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(PIECE as u64);
        let Some(piece) = buffer.get_mut(..length as usize) else { return Ok(()) };
        read(at, piece)?;
        for (marker, found) in markers.iter().zip(found.iter_mut()) {
            *found = *found || occurs(piece, marker);
        }
        let next = at + length;
        at = if next < range.end { next.saturating_sub(overlap).max(at + 1) } else { next };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_across_two_pieces_is_found() {
        let marker = marker();
        for at in [0, PIECE - 3, PIECE, 2 * PIECE - marker.len()] {
            let mut memory = vec![0; 2 * PIECE];
            memory[at..at + marker.len()].copy_from_slice(marker.as_bytes());
            let mut found = [false, false];
            scan(0..memory.len() as u64, &[&marker, "absent"], &mut found, |at, piece| {
                let at = at as usize;
                piece.copy_from_slice(&memory[at..at + piece.len()]);
                Ok(())
            })
            .unwrap();
            assert_eq!(found, [true, false], "{at}");
        }
    }
}
