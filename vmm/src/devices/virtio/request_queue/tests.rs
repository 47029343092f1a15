use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::test_driver::{AVAILABLE, BUFFERS, QUEUE_SIZE, TestDriver, WRITE};

const EVENT_IDX: u64 = 1 << 29;
const NAME: QueueName = QueueName { device: "test", queue: 0 };

/// Answers every request with nothing, at a cost; a guest that never sleeps makes `refills` more
/// requests available meanwhile.
struct Busy {
    queue: Option<RequestQueue>,
    refills: u16,
    cost: u64,
    answered: u32,
}

impl Busy {
    fn new(refills: u16, cost: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { queue: None, refills, cost, answered: 0 }))
    }

    fn work(&mut self) -> Result<(), DeviceFault> {
        let Self { queue, refills, cost, answered } = self;
        queue.as_mut().unwrap().process(|memory, _| {
            *answered += 1;
            if *refills > 0 {
                *refills -= 1;
                let index = GuestAddress(AVAILABLE + 2);
                let available: u16 = memory.read_obj(index).unwrap();
                memory.write_obj(available.wrapping_add(1), index).unwrap();
            }
            Ok(Completion { written: 0, copied: *cost })
        })
    }
}

impl VirtioDevice for Busy {
    fn device_type(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        1 << 32 | EVENT_IDX
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceFault> {
        self.queue = Some(RequestQueue::new(NAME, activation)?);
        Ok(())
    }

    fn notify(&mut self, _: u16) -> Result<(), DeviceFault> {
        self.work()
    }

    fn continue_work(&mut self) -> Result<(), DeviceFault> {
        if self.queue.as_ref().is_some_and(RequestQueue::has_more) { self.work() } else { Ok(()) }
    }

    fn reset(&mut self) {
        self.queue = None;
    }
}

fn driver_of(device: &Arc<Mutex<Busy>>, features: u64) -> TestDriver {
    let mut driver = TestDriver::sharing(Arc::clone(device) as _);
    driver.start(features);
    driver.descriptor(0, (BUFFERS, 8, WRITE, 0));
    driver
}

#[test]
fn a_ring_that_never_empties_gives_the_guest_its_processor_back() {
    for features in [0, EVENT_IDX] {
        let device = Busy::new(u16::MAX, 0);
        let mut driver = driver_of(&device, features);
        for round in 1..5 {
            driver.set(0x050, 0);
            if round == 1 {
                assert_eq!(device.lock().unwrap().answered, 0, "the ring was empty");
                driver.submit(0);
            }
            assert_eq!(device.lock().unwrap().answered, round * u32::from(QUEUE_SIZE));
        }
    }
}

#[test]
fn what_was_left_is_done_when_the_driver_acknowledges_the_interrupt() {
    for features in [0, EVENT_IDX] {
        let device = Busy::new(2 * QUEUE_SIZE, 0);
        let mut driver = driver_of(&device, features);
        // This driver wants no interrupt soon, and gets one: it would not notify again.
        driver.write(AVAILABLE + 4 + 2 * u64::from(QUEUE_SIZE), &1000_u16.to_le_bytes());
        driver.submit(0);
        let mut acknowledged = 0;
        while driver.get(0x060) != 0 && acknowledged < 10 {
            acknowledged += 1;
            driver.set(0x064, 1);
        }
        assert_eq!(device.lock().unwrap().answered, 2 * u32::from(QUEUE_SIZE) + 1);
        assert_eq!(driver.used_index(), 2 * QUEUE_SIZE + 1);
        assert!(acknowledged >= 2, "{acknowledged}");
    }
}

#[test]
fn acknowledging_without_work_left_does_nothing() {
    let device = Busy::new(0, 0);
    let mut driver = driver_of(&device, 0);
    driver.submit(0);
    driver.add(0);
    driver.set(0x064, 1);
    assert_eq!(device.lock().unwrap().answered, 1, "that one was not announced");
}

#[test]
fn a_stopped_device_does_not_go_on() {
    let device = Busy::new(u16::MAX, 0);
    let mut driver = driver_of(&device, 0);
    driver.submit(0);
    let answered = device.lock().unwrap().answered;
    driver.publish(answered as u16 + QUEUE_SIZE + 1);
    driver.set(0x050, 0);
    driver.assert_stopped("broken ring");
    driver.set(0x064, 3);
    assert_eq!(device.lock().unwrap().answered, answered);
}

#[test]
fn costly_requests_give_the_processor_back_sooner() {
    let device = Busy::new(0, MAX_BYTES_AT_ONCE / 2);
    let mut driver = driver_of(&device, 0);
    for _ in 0..4 {
        driver.add(0);
    }
    driver.submit(0);
    assert_eq!(driver.used_index(), 2);
    driver.set(0x064, 1);
    assert_eq!(driver.used_index(), 4);
    driver.set(0x064, 1);
    assert_eq!(driver.used_index(), 5);
}

#[test]
fn the_driver_is_asked_to_announce_the_next_request_only() {
    let device = Busy::new(0, 0);
    let mut driver = driver_of(&device, EVENT_IDX);
    for expected in 1..=3 * QUEUE_SIZE {
        driver.submit(0);
        assert_eq!((driver.used_index(), driver.available_event()), (expected, expected));
    }
}

#[test]
fn work_left_over_is_part_of_the_state() {
    let device = Busy::new(QUEUE_SIZE, 0);
    let mut driver = driver_of(&device, 0);
    driver.submit(0);
    let mut device = device.lock().unwrap();
    let state = device.queue.as_ref().unwrap().state();
    device.work().unwrap();
    let queue = device.queue.as_mut().unwrap();
    assert!(!queue.has_more());
    restore(Some(queue), Some(&state)).unwrap();
    assert!(queue.has_more());
    assert_eq!(queue.state(), state);
    assert_eq!(restore(None, Some(&state)), Err(StateError::Activation));
    assert_eq!(restore(Some(queue), None), Err(StateError::Activation));
    let mut bad = state.clone();
    bad.queue.size = 3;
    assert_eq!(queue.restore(&bad), Err(StateError::Queue));
    assert_eq!(queue.state(), state);
}
