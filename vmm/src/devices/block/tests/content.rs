//! What is on the disk: the image, the overlay, and both through the device.

use std::fs::File;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

#[test]
fn images_that_cannot_be_disks_are_refused() {
    assert!(matches!(DiskImage::from_bytes(&[]), Err(DiskError::Size(0))));
    assert!(matches!(DiskImage::from_bytes(&[0; 513]), Err(DiskError::Size(513))));
    assert!(matches!(DiskImage::open("/nonexistent".as_ref()), Err(DiskError::Read { .. })));
    assert!(matches!(DiskImage::open("/dev/null".as_ref()), Err(DiskError::NotAFile(_))));
}

/// A sparse image costs what it holds, and so does one whose zeros are written out.
#[test]
fn zeros_of_an_image_take_no_room() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    const LENGTH: u64 = 64 << 20;
    let pieces = [(0, 100), (5 << 20, 4096), ((5 << 20) + 4096, 1), (LENGTH - 7, 7)];
    for sparse in [true, false] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LENGTH).unwrap();
        if !sparse {
            file.as_file().write_all_at(&vec![0; LENGTH as usize], 0).unwrap();
        }
        for (at, length) in pieces {
            file.as_file().write_all_at(&vec![7; length], at).unwrap();
        }
        let image = DiskImage::open(file.path()).unwrap();
        assert_eq!(image.read_all().unwrap(), std::fs::read(file.path()).unwrap());
        let kept = image.memory().file().metadata().unwrap().blocks() * 512;
        assert!(kept < 1 << 20, "{kept} bytes");
    }
}

#[test]
fn the_hash_is_of_the_content() {
    use sha2::{Digest, Sha256};
    let image = DiskImage::from_bytes(&content()).unwrap();
    assert_eq!(image.sha256().unwrap(), <[u8; 32]>::from(Sha256::digest(content())));
}

#[test]
fn only_regular_files_are_opened_and_nobody_waits_for_the_others() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(DiskImage::open(directory.path()), Err(DiskError::NotAFile(_))));
    let pipe = directory.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(DiskImage::open(&pipe), Err(DiskError::NotAFile(_))));
    let dangling = directory.path().join("dangling");
    symlink(directory.path().join("nothing"), &dangling).unwrap();
    assert!(matches!(DiskImage::open(&dangling), Err(DiskError::Read { .. })));
}

#[test]
fn an_image_is_a_copy_of_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, content()).unwrap();
    let image = Arc::new(DiskImage::open(&path).unwrap());
    assert_eq!(image.length(), DISK_BYTES as u64);
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    let overlay = Overlay::new(image).unwrap();
    assert_eq!(overlay.read(0..DISK_BYTES as u64).unwrap(), content());
    std::fs::write(&path, []).unwrap();
    assert!(matches!(DiskImage::open(&path), Err(DiskError::Size(0))));
}

#[test]
fn overlays_of_one_image_do_not_see_each_other() {
    let image = Arc::new(DiskImage::from_bytes(&content()).unwrap());
    let mut one = Overlay::new(Arc::clone(&image)).unwrap();
    let two = Overlay::new(Arc::clone(&image)).unwrap();
    one.write(0, &[0xff]).unwrap();
    assert_eq!(two.read(0..512).unwrap(), &content()[..512]);
    assert!(one.dirty_blocks().eq([0]));
    assert_eq!(two.dirty_blocks().count(), 0);
}

#[test]
fn a_range_that_is_backwards_or_too_long_is_no_range() {
    let image = Arc::new(DiskImage::from_bytes(&[0; 512]).unwrap());
    let mut overlay = Overlay::new(image).unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
    for range in [2..1, 0..513, 513..513, 1..u64::MAX, u64::MAX..u64::MAX] {
        assert!(overlay.read(range.clone()).is_none(), "{range:?}");
        assert!(overlay.read_checked(range.clone()).is_err());
        assert!(overlay.write_with(range, |_, _| panic!("nothing to fill")).is_err());
    }
    assert_eq!(overlay.dirty_blocks().count(), 0);
    overlay.write(512, &[]).unwrap();
    assert_eq!(overlay.dirty_blocks().count(), 0, "nothing was written");
    overlay.write(511, &[1]).unwrap();
    overlay.discard().unwrap();
    assert_eq!(overlay.read(0..512).unwrap(), [0; 512], "the last block is a short one");
}

proptest! {
    #[test]
    fn an_overlay_is_a_disk_and_discarding_it_is_the_base(
        writes in proptest::collection::vec((0..DISK_BYTES as u64, 0..9000_u64, any::<u8>()), 0..20)
    ) {
        let base = content();
        let mut model = base.clone();
        let image = Arc::new(DiskImage::from_bytes(&base).unwrap());
        let mut overlay = Overlay::new(image).unwrap();
        for (start, length, byte) in writes {
            let range = start..start + length;
            let fits = range.end <= DISK_BYTES as u64;
            prop_assert_eq!(overlay.read(range.clone()).is_some(), fits);
            let written = overlay.write(start, &vec![byte; length as usize]);
            prop_assert_eq!(written.is_ok(), fits);
            if fits {
                model[start as usize..][..length as usize].fill(byte);
            }
        }
        prop_assert_eq!(overlay.read_checked(0..DISK_BYTES as u64).unwrap(), &model);
        let dirty: Vec<usize> = overlay.dirty_blocks().collect();
        for (block, (now, before)) in
            model.chunks(BLOCK_BYTES).zip(base.chunks(BLOCK_BYTES)).enumerate()
        {
            prop_assert!(now == before || dirty.contains(&block), "block {}", block);
        }
        overlay.discard().unwrap();
        prop_assert_eq!(overlay.read(0..DISK_BYTES as u64).unwrap(), &base);
        prop_assert_eq!(overlay.dirty_blocks().count(), 0);
    }

    /// Sector by sector through the device, against a plain vector.
    #[test]
    fn the_device_is_a_disk(
        requests in proptest::collection::vec(
            (any::<bool>(), 0..130_u64, 0..12_u32, any::<u8>(), 1..512_u32),
            1..40,
        )
    ) {
        let mut model = content();
        let mut driver = disk();
        for (write, sector, sectors, byte, split) in requests {
            let length = sectors * 512;
            let range = sector as usize * 512..sector as usize * 512 + length as usize;
            header(&driver, if write { OUT } else { IN }, sector);
            driver.write(DATA, &vec![byte; length as usize]);
            let split = split.min(length);
            let parts = [
                (BUFFERS, 16, false),
                (DATA, split, !write),
                (DATA + u64::from(split), length - split, !write),
                (STATUS, 1, true),
            ];
            driver.request(&parts).unwrap();
            let status = driver.read(STATUS, 1)[0];
            prop_assert_eq!(status == OK, range.end <= DISK_BYTES);
            if status != OK {
                continue;
            }
            if write {
                model[range].fill(byte);
            } else {
                prop_assert_eq!(driver.read(DATA, length as usize), &model[range]);
            }
        }
    }
}

#[test]
fn a_change_behind_the_overlay_shows_in_its_hash_and_survives_a_discard() {
    use std::os::unix::fs::FileExt;
    let image = Arc::new(DiskImage::from_bytes(&content()).unwrap());
    let mut overlay = Overlay::new(Arc::clone(&image)).unwrap();
    let golden = image.sha256().unwrap();
    assert_eq!(overlay.sha256(), golden);
    overlay.write(10, &[0xee; 10]).unwrap();
    assert_ne!(overlay.sha256(), golden);
    overlay.discard().unwrap();
    assert_eq!(overlay.sha256(), golden);
    // As a debugger writes: past the overlay's record, into this machine's private copy.
    let last = overlay.read(0..DISK_BYTES as u64).unwrap().last().unwrap();
    let (address, flipped) = (std::ptr::from_ref(last) as u64, [!*last]);
    let memory = File::options().write(true).open("/proc/self/mem").unwrap();
    memory.write_all_at(&flipped, address).unwrap();
    assert_eq!(overlay.discard().unwrap(), 0);
    assert_ne!(overlay.sha256(), golden);
    assert_eq!(Overlay::new(image).unwrap().sha256(), golden, "the base was hit");
}
