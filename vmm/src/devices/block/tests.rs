mod captures;
mod content;
mod damage;
mod hostile;

use std::sync::Arc;

use super::request::{self, MAX_REQUEST_BYTES};
use super::*;
use crate::devices::virtio::test_driver::{BUFFERS, TestDriver};

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
fn the_driver_is_told_how_large_a_request_may_be() {
    let mut driver = disk();
    let (segment, segments) = (driver.get(0x108), driver.get(0x10c));
    assert_eq!(segment as usize * segments as usize, MAX_REQUEST_BYTES);
    assert!(request::byte_range(0, MAX_REQUEST_BYTES).is_ok());
    assert!(request::byte_range(0, MAX_REQUEST_BYTES + 512).is_err());
}

#[test]
fn what_is_read_into_guest_memory_is_marked_dirty() {
    let mut driver = disk();
    header(&driver, IN, 0);
    let data = (DATA + 0x800, 0x1000, true);
    driver.chain(&[(BUFFERS, 16, false), data, (STATUS, 1, true)]);
    driver.add(0);
    driver.clean();
    driver.set(0x050, 0);
    for (page, dirty) in
        [(BUFFERS, true), (DATA, true), (DATA + 0x1000, true), (DATA + 0x2000, false)]
    {
        assert_eq!(driver.is_dirty(page), dirty, "{page:#x}");
    }
}

#[test]
fn what_is_written_to_the_disk_marks_no_guest_memory() {
    let mut driver = disk();
    header(&driver, OUT, 0);
    driver.chain(&[(BUFFERS, 16, false), (DATA, 512, false), (STATUS, 1, true)]);
    driver.add(0);
    driver.clean();
    driver.set(0x050, 0);
    assert!(driver.is_dirty(STATUS) && !driver.is_dirty(DATA));
}
