use proptest::prelude::*;

use crate::devices::rng::Rng;
use crate::devices::virtio::StateError;
use crate::devices::virtio::test_driver::{DESCRIPTORS, QUEUE_SIZE, TestDriver, WRITE};

const VERSION_1: u64 = 1 << 32;

#[test]
fn identification_registers() {
    let mut driver = TestDriver::new(Rng::new());
    assert_eq!(driver.get(0x000), 0x7472_6976);
    assert_eq!(driver.get(0x004), 2);
    assert_eq!(driver.get(0x008), 4);
    assert_eq!(driver.get(0x034), 16);
    driver.set(0x014, 1);
    assert_eq!(driver.get(0x010), 1);
    driver.set(0x030, 1);
    assert_eq!(driver.get(0x034), 0, "there is one queue");
}

#[test]
fn accesses_of_other_widths_and_places_do_nothing() {
    let mut driver = TestDriver::new(Rng::new());
    for width in [1, 2, 8] {
        let mut data = vec![0xaa; width];
        driver.transport.read(0, &mut data);
        assert_eq!(data, vec![0; width]);
        driver.transport.write(0x070, &vec![1; width]);
        assert_eq!(driver.get(0x070), 0);
    }
    for offset in [0x001, 0x008, 0x0f0, 0x100, 0xffc] {
        driver.set(offset, 1);
    }
    assert_eq!(driver.transport.refused_writes(), 8);
}

#[test]
fn features_not_offered_or_without_version_1_are_refused() {
    for features in [0, 1, VERSION_1 | 1 << 5, 1 << 29] {
        let mut driver = TestDriver::new(Rng::new());
        driver.negotiate(features);
        assert_eq!(driver.get(0x070), 3, "{features:#x}");
    }
    let mut driver = TestDriver::new(Rng::new());
    driver.negotiate(VERSION_1 | 1 << 29);
    assert_eq!(driver.get(0x070), 11);
}

#[test]
fn queue_registers_are_refused_before_features_and_after_driver_ok() {
    let mut driver = TestDriver::new(Rng::new());
    driver.set_up_queue(0);
    assert_eq!(driver.transport.refused_writes(), 8);
    assert_eq!(driver.get(0x044), 0);

    let mut driver = TestDriver::started(Rng::new(), 0);
    let refused = driver.transport.refused_writes();
    for register in [0x038, 0x044, 0x080, 0x084, 0x090, 0x094, 0x0a0, 0x0a4, 0x020] {
        driver.set(register, 1);
    }
    assert_eq!(driver.transport.refused_writes(), refused + 9);
    // The device still works on the queue it was given.
    assert_eq!(driver.request(&[(0x1_0000, 64, true)]), Some(64));
}

#[test]
fn a_ready_queue_cannot_be_moved() {
    let mut driver = TestDriver::new(Rng::new());
    driver.negotiate(VERSION_1);
    driver.set_up_queue(0);
    let refused = driver.transport.refused_writes();
    driver.set(0x080, 0x8000);
    driver.set(0x038, 8);
    assert_eq!(driver.transport.refused_writes(), refused + 2);
    driver.set(0x044, 0);
    driver.set(0x080, 0x8000);
    assert_eq!(driver.transport.refused_writes(), refused + 2);
}

#[test]
fn sizes_that_are_no_power_of_two_or_too_large_are_refused() {
    let mut driver = TestDriver::new(Rng::new());
    driver.negotiate(VERSION_1);
    for size in [0, 3, 32, 0x1_0010, u32::MAX] {
        let refused = driver.transport.refused_writes();
        driver.set(0x038, size);
        assert_eq!(driver.transport.refused_writes(), refused + 1, "{size}");
    }
}

#[test]
fn rings_outside_ram_or_missing_stop_the_device() {
    for high in [0x080, 0x090, 0x0a0] {
        let mut driver = TestDriver::new(Rng::new());
        driver.negotiate(VERSION_1);
        driver.set_up_queue(0);
        driver.set(0x044, 0);
        driver.set(high + 4, 1);
        driver.set(0x044, 1);
        driver.set(0x070, 15);
        driver.assert_stopped("outside guest RAM");
    }
    let mut driver = TestDriver::new(Rng::new());
    driver.negotiate(VERSION_1);
    driver.set(0x070, 15);
    driver.assert_stopped("not ready");
}

#[test]
fn a_reset_brings_a_stopped_device_back() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    driver.publish(QUEUE_SIZE + 1);
    driver.set(0x050, 0);
    driver.assert_stopped("broken ring");
    driver.set(0x070, 0);
    assert_eq!(driver.get(0x070), 0);
    driver.publish(0);
    driver.negotiate(VERSION_1);
    driver.set_up_queue(0);
    driver.set(0x070, 15);
    assert_eq!(driver.get(0x070), 15);
    assert_eq!(driver.request(&[(0x1_0000, 8, true)]), Some(8));
}

#[test]
fn notifications_of_other_queues_do_nothing() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    for queue in [1, 7, 0x1_0000, u32::MAX] {
        let refused = driver.transport.refused_writes();
        driver.set(0x050, queue);
        assert_eq!(driver.transport.refused_writes(), refused + 1);
    }
}

/// A driver may fill a queue and notify before it sets `DRIVER_OK`: the notification is refused, and
/// nobody repeats it.
#[test]
fn what_a_driver_queued_before_driver_ok_is_served_then() {
    let mut driver = TestDriver::new(Rng::new());
    driver.negotiate(VERSION_1);
    driver.set_up_queue(0);
    driver.descriptor(0, (0x1_0000, 8, WRITE, 0));
    driver.submit(0);
    assert_eq!(driver.used_index(), 0);
    driver.set(0x070, 15);
    assert_eq!(driver.used_index(), 1);
}

#[test]
fn the_interrupt_is_seen_and_acknowledged() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    driver.request(&[(0x1_0000, 8, true)]);
    assert_eq!((driver.get(0x060), driver.interrupts()), (1, 1));
    driver.set(0x064, 1);
    assert_eq!(driver.get(0x060), 0);
}

#[test]
fn with_event_index_only_the_wanted_interrupt_comes() {
    let mut driver = TestDriver::started(Rng::new(), 1 << 29);
    // used_event stands behind the available ring: "tell me after the second buffer".
    driver.write(0x2000 + 4 + 2 * u64::from(QUEUE_SIZE), &1_u16.to_le_bytes());
    driver.request(&[(0x1_0000, 8, true)]);
    assert_eq!(driver.interrupts(), 0);
    driver.request(&[(0x1_0000, 8, true)]);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn a_head_outside_the_table_is_a_broken_queue() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    driver.descriptor_at(DESCRIPTORS + 16 * 20, (0x1_0000, 8, WRITE, 0));
    driver.submit(20);
    driver.assert_stopped("");
}

#[test]
fn a_queue_at_work_reads_as_ready() {
    let mut driver = TestDriver::started(Rng::new(), 0);
    assert_eq!(driver.get(0x044), 1);
    driver.set(0x030, 1);
    assert_eq!(driver.get(0x044), 0, "there is one queue");
    driver.set(0x070, 0);
    assert_eq!(driver.get(0x044), 0);
}

#[test]
fn misaligned_rings_are_refused() {
    let mut driver = TestDriver::new(Rng::new());
    driver.negotiate(VERSION_1);
    for (register, address) in [(0x080, 0x1008), (0x090, 0x2001), (0x0a0, 0x3002)] {
        let refused = driver.transport.refused_writes();
        driver.set(register, address);
        assert_eq!(driver.transport.refused_writes(), refused + 1, "{register:#x}");
    }
    let refused = driver.transport.refused_writes();
    driver.set(0x044, 2);
    assert_eq!(driver.transport.refused_writes(), refused + 1);
}

#[test]
fn there_is_no_shared_memory() {
    let mut driver = TestDriver::new(Rng::new());
    driver.set(0x0ac, 0);
    for register in [0x0b0, 0x0b4, 0x0b8, 0x0bc] {
        assert_eq!(driver.get(register), u32::MAX);
    }
}

#[test]
fn the_configuration_space_can_be_read_in_any_width() {
    let image = crate::DiskImage::from_bytes(&vec![0; 0x1234 * 512]).unwrap();
    let overlay = crate::devices::block::Overlay::new(image.into()).unwrap();
    let mut driver = TestDriver::new(crate::devices::block::Block::new(overlay));
    for (offset, width, expected) in [
        (0x100, 1, 0x34),
        (0x101, 1, 0x12),
        (0x100, 2, 0x1234),
        (0x100, 4, 0x1234),
        (0x100, 8, 0x1234),
        (0x10c, 8, 126),
        (0x10e, 8, 0),
        (0xff8, 8, 0),
        (0x0fc, 8, 0),
    ] {
        let mut data = [0; 8];
        driver.transport.read(offset, &mut data[..width]);
        assert_eq!(u64::from_le_bytes(data), expected, "{width} bytes at {offset:#x}");
    }
}

#[test]
fn a_state_of_another_device_is_refused() {
    let mut driver = TestDriver::new(Rng::new());
    let (vsock, _host) = crate::devices::vsock::VsockDevice::new(3);
    let other = TestDriver::new(vsock).transport.state().unwrap();
    let before = driver.transport.state().unwrap();
    assert_eq!(driver.transport.restore(&other), Err(StateError::Queue));
    assert_eq!(driver.transport.state().unwrap(), before);
}

#[test]
fn registers_go_back_with_everything_the_driver_selected() {
    let mut driver = TestDriver::started(Rng::new(), 1 << 29);
    driver.request(&[(0x1_0000, 8, true)]);
    let golden = driver.transport.state().unwrap();
    for register in [0x014, 0x024, 0x030] {
        driver.set(register, 1);
    }
    driver.set(0x064, 1);
    assert_ne!(driver.transport.state().unwrap(), golden);
    driver.transport.restore(&golden).unwrap();
    assert_eq!(driver.transport.state().unwrap(), golden);
    assert_eq!(driver.get(0x060), 1);
    driver.set(0x070, 0x80);
    assert_ne!(driver.transport.state().unwrap(), golden);
    driver.transport.restore(&golden).unwrap();
    assert_eq!(driver.request(&[(0x1_0000, 8, true)]), Some(8));
}

/// MmioRegister offsets, mostly, and values a driver might write.
fn accesses() -> impl Strategy<Value = Vec<(u64, u32, bool)>> {
    let offset = prop_oneof![
        4 => prop_oneof![Just(0x070_u64), Just(0x050), Just(0x064), Just(0x020), Just(0x024)],
        4 => (0x080_u64..0x0a8).prop_map(|offset| offset & !3),
        2 => prop_oneof![Just(0x030_u64), Just(0x038), Just(0x044)],
        1 => 0_u64..0x1000,
    ];
    let value = prop_oneof![
        4 => prop_oneof![Just(0_u32), Just(1), Just(3), Just(11), Just(15)],
        2 => (0_u32..16).prop_map(|page| page << 12),
        1 => any::<u32>(),
    ];
    proptest::collection::vec((offset, value, any::<bool>()), 0..200)
}

proptest! {
    /// No order of register accesses does anything to a working queue, short of a reset.
    #[test]
    fn registers_in_any_order(accesses in accesses(), started in any::<bool>()) {
        let mut driver = TestDriver::new(Rng::new());
        if started {
            driver.start(0);
        }
        let mut at_work = None;
        for (offset, value, write) in accesses {
            if write {
                driver.set(offset, value);
            } else {
                driver.get(offset);
            }
            let status = driver.get(0x070);
            prop_assert!(
                [0, 1, 3, 11, 15].contains(&(status & !0xc0)),
                "status {status:#x}"
            );
            if offset == 0x070 && value == 0 {
                at_work = None;
            }
            let queues = driver.transport.configured();
            match &at_work {
                Some(before) => prop_assert_eq!(before, &queues),
                None if status & 4 != 0 => at_work = Some(queues),
                None => {}
            }
        }
    }
}
