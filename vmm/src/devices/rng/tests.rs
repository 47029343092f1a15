use vm_memory::GuestMemoryRegion;
use vm_memory::bitmap::Bitmap;

use super::Rng;
use super::queue::MOST_PER_REQUEST;
use crate::devices::virtio::test_driver::{BUFFERS, NEXT, RAM_BYTES, TestDriver, WRITE};

#[test]
fn buffers_are_filled_and_marked_dirty() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    let region = vm_memory::GuestMemoryBackend::iter(&*driver.memory).next().unwrap();
    assert!(!region.bitmap().dirty_at(BUFFERS as usize));
    assert_eq!(driver.request(&[(BUFFERS, 40, true), (BUFFERS + 100, 24, true)]), Some(64));
    assert_ne!(driver.read(BUFFERS, 40), vec![0; 40]);
    assert_ne!(driver.read(BUFFERS + 100, 24), vec![0; 24]);
    assert_eq!(driver.read(BUFFERS + 40, 60), vec![0; 60]);
    let region = vm_memory::GuestMemoryBackend::iter(&*driver.memory).next().unwrap();
    assert!(region.bitmap().dirty_at(BUFFERS as usize));
}

#[test]
fn a_large_buffer_is_filled_as_far_as_the_bound() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    let used = driver.request(&[(BUFFERS, 0x8_0000, true)]);
    assert_eq!(used, Some(MOST_PER_REQUEST as u32));
}

#[test]
fn a_buffer_of_nothing_is_answered_with_nothing() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    assert_eq!(driver.request(&[(BUFFERS, 0, true)]), Some(0));
}

#[test]
fn readable_foreign_and_endless_buffers_stop_the_device() {
    for parts in [
        [(BUFFERS, 8, false)],
        [(RAM_BYTES - 4, 8, true)],
        [(RAM_BYTES, 8, true)],
        [(u64::MAX - 3, 8, true)],
        [(BUFFERS, u32::MAX, true)],
    ] {
        let mut driver = TestDriver::started(Rng::new(), 0);
        assert_eq!(driver.request(&parts), None);
        driver.assert_stopped("bad descriptor chain");
    }
    let mut driver = TestDriver::started(Rng::new(), 0);
    driver.descriptor(0, (BUFFERS, 8, WRITE | NEXT, 1));
    driver.descriptor(1, (BUFFERS, 8, WRITE | NEXT, 0));
    driver.submit(0);
    driver.assert_stopped("bad descriptor chain");
}
