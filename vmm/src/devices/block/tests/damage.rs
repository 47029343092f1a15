//! A disk that is changed behind its own back.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::devices::block::overlay::OverlayError;

const BLOCKS: u64 = (DISK_BYTES / BLOCK_BYTES) as u64;

fn overlay() -> Overlay {
    Overlay::new(Arc::new(DiskImage::from_bytes(&content()).unwrap())).unwrap()
}

fn flip(overlay: &mut Overlay, at: usize) {
    overlay.mapping_mut().bytes_mut()[at] ^= 0x10;
}

fn is_damaged<T>(result: &Result<T, OverlayError>, block: usize) -> bool {
    matches!(result, Err(OverlayError::Damaged(found)) if *found == block)
}

#[test]
fn a_changed_block_is_an_error_to_the_guest_and_is_remembered_once() {
    let device = Arc::new(Mutex::new(Block::new(overlay())));
    let mut driver = TestDriver::sharing(device.clone());
    driver.start(0);
    flip(device.lock().unwrap().overlay_mut(), 2 * BLOCK_BYTES + 5);
    // A sector of the block that does not hold the changed byte is no better.
    for sector in [16, 23] {
        assert_eq!(ask(&mut driver, IN, sector, 512), (IOERR, 1));
    }
    assert_eq!(ask(&mut driver, IN, 8, 4096), (OK, 4097), "its neighbour is sound");
    assert_eq!(ask(&mut driver, IN, 8, 8192), (IOERR, 1), "together they are not");
    let refused = device.lock().unwrap().overlay_mut().take_refused();
    let [damage] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!(damage.block, 2);
    assert_ne!(damage.was, damage.is);
    assert!(device.lock().unwrap().overlay_mut().take_refused().is_empty());
}

#[test]
fn a_change_does_not_get_a_record_with_a_write_beside_it() {
    let mut overlay = overlay();
    flip(&mut overlay, 3 * BLOCK_BYTES);
    let beside = 3 * BLOCK_BYTES as u64 + 512;
    assert!(is_damaged(&overlay.write(beside, &[1; 512]), 3));
    assert_eq!(overlay.dirty_blocks().count(), 0);
    // The same in a block that has a record, and in a write that begins before it.
    overlay.write(5 * BLOCK_BYTES as u64, &[1; 512]).unwrap();
    flip(&mut overlay, 6 * BLOCK_BYTES - 1);
    assert!(is_damaged(&overlay.write(4 * BLOCK_BYTES as u64, &[2; BLOCK_BYTES + 512]), 5));
    assert!(overlay.dirty_blocks().eq([4, 5]), "the block before it was written");
    assert_eq!(
        overlay.take_refused().iter().map(|damage| damage.block).collect::<Vec<_>>(),
        [3, 5]
    );
}

#[test]
fn a_whole_block_written_over_a_change_is_sound() {
    let mut overlay = overlay();
    flip(&mut overlay, 3 * BLOCK_BYTES);
    overlay.write(3 * BLOCK_BYTES as u64, &[9; BLOCK_BYTES]).unwrap();
    assert_eq!(overlay.damage(3).unwrap(), None);
}

#[test]
fn a_write_that_fails_half_way_leaves_blocks_whole() {
    let mut overlay = overlay();
    let failed = overlay.write_with(100..3 * BLOCK_BYTES as u64, |at, target| {
        target.fill(1);
        if at > BLOCK_BYTES { Err(io_error()) } else { Ok(()) }
    });
    assert!(matches!(failed, Err(OverlayError::Io(_))));
    assert!(overlay.dirty_blocks().eq([0, 1]));
    for block in 0..BLOCKS as usize {
        assert_eq!(overlay.damage(block).unwrap(), None, "{block}");
    }
    assert_eq!(overlay.content(2), &content()[2 * BLOCK_BYTES..3 * BLOCK_BYTES]);
}

fn io_error() -> std::io::Error {
    std::io::ErrorKind::UnexpectedEof.into()
}

#[test]
fn a_disk_with_a_changed_block_is_not_frozen() {
    let mut overlay = overlay();
    overlay.write(0, &[1; 4]).unwrap();
    flip(&mut overlay, 1000);
    assert!(overlay.freeze().is_err());
    flip(&mut overlay, 1000);
    let root = overlay.freeze().unwrap().root().unwrap();
    let mut bytes = content();
    bytes[..4].fill(1);
    assert_eq!(root, DiskImage::from_bytes(&bytes).unwrap().root().unwrap());
}

proptest! {
    /// Whatever was written where, every block reads as its record says, and one flipped bit is
    /// seen, in its block.
    #[test]
    fn records_are_those_of_the_content(
        writes in prop::collection::vec((0..DISK_BYTES as u64, 0..9000_u64, any::<u8>()), 0..20),
        at in 0..DISK_BYTES,
        bit in 0..8_u32,
    ) {
        let mut overlay = overlay();
        for (start, length, byte) in writes {
            let length = length.min(DISK_BYTES as u64 - start);
            overlay.write(start, &vec![byte; length as usize]).unwrap();
        }
        for block in 0..BLOCKS as usize {
            prop_assert_eq!(overlay.damage(block).unwrap(), None);
        }
        overlay.mapping_mut().bytes_mut()[at] ^= 1 << bit;
        for block in 0..BLOCKS as usize {
            let damaged = overlay.damage(block).unwrap().is_some();
            prop_assert_eq!(damaged, block == at / BLOCK_BYTES);
        }
    }
}
