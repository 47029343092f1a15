use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::Rng;
use super::device::MAX_REQUEST_BYTES;
use crate::devices::virtio::test_driver::{BUFFERS, NEXT, RAM_BYTES, TestDriver, WRITE};

#[test]
fn buffers_are_filled_and_marked_dirty() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    driver.clean();
    assert_eq!(driver.request(&[(BUFFERS, 40, true), (BUFFERS + 100, 24, true)]), Some(64));
    assert_ne!(driver.read(BUFFERS, 40), vec![0; 40]);
    assert_ne!(driver.read(BUFFERS + 100, 24), vec![0; 24]);
    assert_eq!(driver.read(BUFFERS + 40, 60), vec![0; 60]);
    assert!(driver.is_dirty(BUFFERS) && !driver.is_dirty(BUFFERS + 0x1000));
}

#[test]
fn a_large_buffer_is_filled_as_far_as_the_bound() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    let used = driver.request(&[(BUFFERS, 0x8_0000, true)]);
    assert_eq!(used, Some(MAX_REQUEST_BYTES as u32));
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

#[test]
fn the_device_goes_back_to_where_it_was_in_its_queue() {
    let device = Arc::new(Mutex::new(Rng::new()));
    let mut driver = TestDriver::sharing(Arc::clone(&device) as _);
    let fresh = device.lock().unwrap().state();
    driver.start(0);
    let golden = device.lock().unwrap().state();
    let ram = driver.save();
    assert_ne!(fresh, golden);
    for _ in 0..3 {
        assert_eq!(driver.request(&[(BUFFERS, 8, true)]), Some(8));
        assert_ne!(device.lock().unwrap().state(), golden);
        driver.load(&ram);
        device.lock().unwrap().restore_state(&golden).unwrap();
        assert_eq!(device.lock().unwrap().state(), golden);
    }
    assert!(device.lock().unwrap().restore_state(&fresh).is_err());
}

proptest! {
    /// Whatever the driver does, the device writes to nothing but the buffers it may write to and
    /// the used ring, and marks what it writes.
    #[test]
    fn hostile_chains_reach_nothing_else(
        ring in proptest::collection::vec(
            (
                prop_oneof![9 => 0..RAM_BYTES, 1 => any::<u64>()],
                prop_oneof![9 => 0..9000_u32, 1 => any::<u32>()],
                prop_oneof![Just(WRITE), Just(WRITE | NEXT), Just(NEXT), Just(0)],
                0..9_u16,
            ),
            8,
        ),
        heads in proptest::collection::vec(0..9_u16, 1..5),
    ) {
        let mut driver = TestDriver::started(Rng::new(), 0);
        let mut allowed = Vec::new();
        for (index, descriptor) in (0..).zip(ring) {
            driver.descriptor(index, descriptor);
            let (address, length, flags, _) = descriptor;
            if flags & WRITE != 0 {
                allowed.push((address, length.into()));
            }
        }
        for head in heads {
            driver.add(head);
        }
        driver.assert_confined(&allowed, |driver| driver.set(0x050, 0));
    }
}
