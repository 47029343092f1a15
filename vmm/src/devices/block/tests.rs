use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::devices::virtio::test_driver::{BUFFERS, INDIRECT, NEXT, RAM_BYTES, TestDriver, WRITE};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const DISK_BYTES: usize = 64 << 10;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x800;

fn content() -> Vec<u8> {
    (0..DISK_BYTES).map(|at| (at / 512) as u8 ^ at as u8).collect()
}

fn disk() -> TestDriver {
    let image = Arc::new(DiskImage::from_bytes(&content()).unwrap());
    TestDriver::started(Block::new(Overlay::new(image).unwrap()), 0)
}

fn header(driver: &TestDriver, kind: u32, sector: u64) {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    driver.write(BUFFERS, &bytes);
}

/// A request with one data buffer; returns status and used length.
fn ask(driver: &mut TestDriver, kind: u32, sector: u64, length: u32) -> (u8, u32) {
    header(driver, kind, sector);
    driver.write(STATUS, &[0xee]);
    let data = (DATA, length, kind != OUT);
    let used = driver.request(&[(BUFFERS, 16, false), data, (STATUS, 1, true)]).unwrap();
    (driver.read(STATUS, 1)[0], used)
}

#[test]
fn reads_see_the_base_and_writes_see_themselves() {
    let mut driver = disk();
    assert_eq!(ask(&mut driver, IN, 3, 1024), (OK, 1025));
    assert_eq!(driver.read(DATA, 1024), content()[1536..2560]);
    driver.write(DATA, &[9; 512]);
    assert_eq!(ask(&mut driver, OUT, 4, 512), (OK, 1));
    assert_eq!(ask(&mut driver, IN, 4, 512), (OK, 513));
    assert_eq!(driver.read(DATA, 512), [9; 512]);
    assert_eq!(ask(&mut driver, FLUSH, 0, 0), (OK, 1));
    assert_eq!(ask(&mut driver, GET_ID, 0, 20), (OK, 21));
    assert_eq!(driver.read(DATA, 8), b"bsm-disk");
}

#[test]
fn capacity_is_in_sectors() {
    let mut driver = disk();
    assert_eq!(driver.get(0x100), (DISK_BYTES / 512) as u32);
    assert_eq!((driver.get(0x104), driver.get(0x10c), driver.get(0x118)), (0, 126, 0));
}

#[test]
fn impossible_requests_get_an_error_and_the_device_goes_on() {
    let mut driver = disk();
    let last = (DISK_BYTES / 512) as u64;
    for (kind, sector, length, status) in [
        (IN, last, 512, IOERR),
        (OUT, last - 1, 1024, IOERR),
        (IN, u64::MAX, 512, IOERR),
        (IN, u64::MAX / 512, 512, IOERR),
        (IN, u64::MAX / 512 + 1, 512, IOERR),
        (IN, 0, 100, IOERR),
        (OUT, 0, 511, IOERR),
        (11, 0, 512, UNSUPP),
        (u32::MAX, 0, 512, UNSUPP),
    ] {
        assert_eq!(ask(&mut driver, kind, sector, length), (status, 1), "{kind} {sector} {length}");
    }
    assert_eq!(ask(&mut driver, IN, last - 1, 512), (OK, 513));
    assert!(driver.faults.lock().unwrap().is_empty());
}

#[test]
fn a_header_in_pieces_and_scattered_data_are_put_together() {
    let mut driver = disk();
    header(&driver, IN, 1);
    let parts = [
        (BUFFERS, 3, false),
        (BUFFERS + 3, 13, false),
        (DATA, 100, true),
        (DATA + 200, 0, true),
        (DATA + 300, 412, true),
        (STATUS, 1, true),
    ];
    assert_eq!(driver.request(&parts), Some(513));
    let found = [driver.read(DATA, 100), driver.read(DATA + 300, 412)].concat();
    assert_eq!(found, content()[512..1024]);
}

#[test]
fn status_may_share_a_buffer_with_data() {
    let mut driver = disk();
    header(&driver, IN, 0);
    assert_eq!(driver.request(&[(BUFFERS, 16, false), (DATA, 513, true)]), Some(513));
    assert_eq!(driver.read(DATA, 512), content()[..512]);
    assert_eq!(driver.read(DATA + 512, 1), [OK]);
}

#[test]
fn a_short_header_is_an_error_where_there_is_a_status() {
    let mut driver = disk();
    assert_eq!(driver.request(&[(BUFFERS, 15, false), (STATUS, 1, true)]), Some(1));
    assert_eq!(driver.read(STATUS, 1), [IOERR]);
    assert_eq!(driver.request(&[(STATUS, 1, true)]), Some(1));
    assert_eq!(driver.read(STATUS, 1), [IOERR]);
}

#[test]
fn chains_without_a_status_stop_the_device() {
    for parts in [
        vec![(BUFFERS, 16, false)],
        vec![(BUFFERS, 16, false), (DATA, 0, true)],
        vec![(BUFFERS, 16, false), (DATA, 512, true), (STATUS, 1, false)],
        vec![(BUFFERS, 16, false), (RAM_BYTES - 256, 512, true), (STATUS, 1, true)],
        vec![(RAM_BYTES, 16, false), (STATUS, 1, true)],
        vec![(u64::MAX, 16, false), (STATUS, 1, true)],
        vec![(BUFFERS, u32::MAX, false), (STATUS, 1, true)],
    ] {
        let mut driver = disk();
        header(&driver, IN, 0);
        assert_eq!(driver.request(&parts), None, "{parts:?}");
        driver.assert_stopped("bad descriptor chain");
    }
}

#[test]
fn a_buffer_at_the_very_end_of_ram_works() {
    let mut driver = disk();
    header(&driver, IN, 0);
    let data = (RAM_BYTES - 512, 512, true);
    assert_eq!(driver.request(&[(BUFFERS, 16, false), data, (STATUS, 1, true)]), Some(513));
    assert_eq!(driver.read(RAM_BYTES - 512, 512), content()[..512]);
}

#[test]
fn loops_stop_the_device() {
    let mut driver = disk();
    header(&driver, IN, 0);
    driver.descriptor(0, (BUFFERS, 16, NEXT, 1));
    driver.descriptor(1, (DATA, 512, NEXT | WRITE, 1));
    driver.submit(0);
    driver.assert_stopped("");

    let mut driver = disk();
    driver.descriptor(0, (BUFFERS, 16, NEXT, 99));
    driver.submit(0);
    driver.assert_stopped("does not end");
}

#[test]
fn indirect_tables_inside_indirect_tables_stop_the_device() {
    let mut driver = disk();
    driver.descriptor(0, (DATA, 16, INDIRECT, 0));
    driver.descriptor_at(DATA, (DATA, 16, INDIRECT, 0));
    driver.submit(0);
    driver.assert_stopped("");
}

#[test]
fn an_index_jump_stops_the_device() {
    let mut driver = disk();
    driver.publish(1000);
    driver.set(0x050, 0);
    driver.assert_stopped("broken ring");
}

#[test]
fn images_that_cannot_be_disks_are_refused() {
    assert!(matches!(DiskImage::from_bytes(&[]), Err(DiskError::Size(0))));
    assert!(matches!(DiskImage::from_bytes(&[0; 513]), Err(DiskError::Size(513))));
    assert!(matches!(
        DiskImage::from_bytes(&[0; 512]).unwrap().require_ext4(),
        Err(DiskError::NotExt4)
    ));
    assert!(matches!(
        DiskImage::from_bytes(&[0; 4096]).unwrap().require_ext4(),
        Err(DiskError::NotExt4)
    ));
    assert!(matches!(DiskImage::open("/nonexistent".as_ref()), Err(DiskError::Read { .. })));
    assert!(matches!(DiskImage::open("/dev/null".as_ref()), Err(DiskError::NotAFile(_))));
    let mut superblock = vec![0; 4096];
    superblock[1024 + 0x38..][..2].copy_from_slice(&[0x53, 0xef]);
    assert!(DiskImage::from_bytes(&superblock).unwrap().require_ext4().is_ok());
}

#[test]
fn the_hash_is_of_the_content() {
    use sha2::{Digest, Sha256};
    let image = DiskImage::from_bytes(&content()).unwrap();
    assert_eq!(image.sha256().unwrap(), <[u8; 32]>::from(Sha256::digest(content())));
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
            match overlay.write(range) {
                Some(data) => {
                    data.fill(byte);
                    model[start as usize..][..length as usize].fill(byte);
                }
                None => prop_assert!(!fits),
            }
        }
        prop_assert_eq!(overlay.read(0..DISK_BYTES as u64).unwrap(), &model);
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

    /// Whatever the driver does, the device touches nothing but the buffers it may write and the
    /// used ring.
    #[test]
    fn hostile_chains_reach_nothing_else(
        descriptors in proptest::collection::vec(
            (0..RAM_BYTES + 0x2000, prop_oneof![0..2000_u32, any::<u32>()], 0..8_u16, 0..20_u16),
            1..16,
        ),
        head in 0..20_u16,
        kind in 0..10_u32,
        sector in prop_oneof![0..200_u64, any::<u64>()],
    ) {
        let mut driver = disk();
        let mut allowed = vec![(0x3000, 0x1000)];
        for (index, (address, length, flags, next)) in descriptors.iter().enumerate() {
            // Indirect tables would themselves be places the device may legitimately go to.
            let flags = flags & (NEXT | WRITE);
            driver.descriptor(index as u16, (*address, *length, flags, *next));
            if flags & WRITE != 0 {
                allowed.push((*address, u64::from(*length)));
            }
        }
        header(&driver, kind, sector);
        if let Some((_, _, flags, next)) = descriptors.first() {
            driver.descriptor(0, (BUFFERS, 16, flags & NEXT, *next));
        }
        let before = driver.read(0, RAM_BYTES as usize);
        driver.submit(head);
        let after = driver.read(0, RAM_BYTES as usize);
        for (at, (old, new)) in before.iter().zip(&after).enumerate() {
            let at = at as u64;
            let mine = (0x2000..0x3000).contains(&at)
                || allowed.iter().any(|(start, length)| (*start..start.saturating_add(*length)).contains(&at));
            prop_assert!(old == new || mine, "byte {:#x}", at);
        }
    }
}
