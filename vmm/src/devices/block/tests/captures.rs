//! Capture and restore, alone and with the transport.

use std::sync::Mutex;

use super::*;
use crate::devices::virtio::StateError;

fn shared() -> (Arc<Mutex<Block>>, TestDriver) {
    let image = Arc::new(DiskImage::from_bytes(&content()).unwrap());
    let device = Arc::new(Mutex::new(Block::new(Overlay::new(image).unwrap())));
    let driver = TestDriver::sharing(Arc::clone(&device) as _);
    (device, driver)
}

#[test]
fn the_device_goes_back_to_where_it_was_in_its_queue() {
    let (device, mut driver) = shared();
    driver.start(0);
    assert_eq!(ask(&mut driver, IN, 0, 512), (OK, 513));
    let golden = device.lock().unwrap().state();
    let registers = driver.transport.state().unwrap();
    let ram = driver.save();
    for _ in 0..3 {
        for _ in 0..5 {
            driver.write(DATA, &[7; 512]);
            assert_eq!(ask(&mut driver, OUT, 1, 512), (OK, 1));
        }
        assert_ne!(device.lock().unwrap().state(), golden);
        driver.load(&ram);
        driver.transport.restore(&registers).unwrap();
        device.lock().unwrap().restore_state(&golden).unwrap();
        device.lock().unwrap().overlay_mut().discard().unwrap();
        assert_eq!(device.lock().unwrap().state(), golden);
        assert_eq!(driver.transport.state().unwrap(), registers);
        assert_eq!(ask(&mut driver, IN, 1, 512), (OK, 513));
        assert_eq!(driver.read(DATA, 512), content()[512..1024]);
    }
}

#[test]
fn a_new_device_begins_where_the_captured_one_stood() {
    let (device, mut driver) = shared();
    driver.start(1 << 29);
    for _ in 0..20 {
        assert_eq!(ask(&mut driver, IN, 0, 512), (OK, 513));
    }
    let golden = device.lock().unwrap().state();
    let registers = driver.transport.state().unwrap();
    let (fork, mut other) = shared();
    assert_eq!(fork.lock().unwrap().restore_state(&golden), Err(StateError::Activation));
    other.load(&driver.save());
    other.transport.restore(&registers).unwrap();
    fork.lock().unwrap().restore_state(&golden).unwrap();
    assert_eq!(fork.lock().unwrap().state(), golden);
    assert_eq!(other.transport.state().unwrap(), registers);
    assert_eq!(ask(&mut other, IN, 3, 512), (OK, 513));
    assert_eq!(other.read(DATA, 512), content()[1536..2048]);
    assert_eq!(other.used_index(), 21);
}

/// A guest that moves its rings does not keep them there.
#[test]
fn a_device_set_up_again_elsewhere_goes_back_too() {
    let (device, mut driver) = shared();
    driver.start(0);
    let golden = device.lock().unwrap().state();
    let registers = driver.transport.state().unwrap();
    let ram = driver.save();
    driver.set(0x070, 0);
    driver.negotiate(1 << 32);
    driver.set_up_queue(0);
    driver.set(0x044, 0);
    driver.set(0x080, 0x8_0000);
    driver.set(0x044, 1);
    driver.set(0x070, 15);
    assert_ne!(device.lock().unwrap().state(), golden);
    driver.load(&ram);
    driver.transport.restore(&registers).unwrap();
    device.lock().unwrap().restore_state(&golden).unwrap();
    assert_eq!(ask(&mut driver, IN, 0, 512), (OK, 513));
}

#[test]
fn a_device_not_yet_active_goes_back_to_that() {
    let (device, mut driver) = shared();
    let golden = device.lock().unwrap().state();
    let registers = driver.transport.state().unwrap();
    driver.start(0);
    assert_eq!(device.lock().unwrap().restore_state(&golden), Err(StateError::Activation));
    driver.transport.restore(&registers).unwrap();
    device.lock().unwrap().restore_state(&golden).unwrap();
    assert_eq!(driver.get(0x070), 0);
    driver.start(0);
}

#[test]
fn a_stopped_device_cannot_be_captured_but_can_be_put_back() {
    let (device, mut driver) = shared();
    driver.start(0);
    let golden = device.lock().unwrap().state();
    let registers = driver.transport.state().unwrap();
    let ram = driver.save();
    driver.publish(1000);
    driver.set(0x050, 0);
    driver.assert_stopped("broken ring");
    assert_eq!(driver.transport.state(), Err(StateError::Stopped));
    driver.load(&ram);
    driver.transport.restore(&registers).unwrap();
    device.lock().unwrap().restore_state(&golden).unwrap();
    assert_eq!(ask(&mut driver, IN, 0, 512), (OK, 513));
}
