//! Drivers that do not keep to the rules.

use proptest::prelude::*;

use super::*;
use crate::devices::virtio::test_driver::{INDIRECT, NEXT, QUEUE_SIZE, RAM_BYTES, WRITE};

/// Where tests keep an indirect table.
const TABLE: u64 = BUFFERS + 0x4000;
const TABLE_ENTRIES: u64 = 8;

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
fn an_indirect_table_is_followed_like_the_ring_itself() {
    let mut driver = disk();
    header(&driver, IN, 0);
    driver.descriptor(0, (TABLE, 48, INDIRECT, 0));
    driver.descriptor_at(TABLE, (BUFFERS, 16, NEXT, 1));
    driver.descriptor_at(TABLE + 16, (DATA, 512, NEXT | WRITE, 2));
    driver.descriptor_at(TABLE + 32, (STATUS, 1, WRITE, 0));
    driver.submit(0);
    assert_eq!(driver.used_index(), 1);
    assert_eq!(driver.read(DATA, 512), content()[..512]);
}

#[test]
fn broken_indirect_tables_stop_the_device() {
    let loops = (BUFFERS, 16, NEXT, 0);
    let leaves = (BUFFERS, 16, NEXT, TABLE_ENTRIES as u16);
    for (table, length, first) in [
        (TABLE, 16 * TABLE_ENTRIES as u32, loops),
        (TABLE, 16 * TABLE_ENTRIES as u32, leaves),
        (TABLE, 0, loops),
        (TABLE, 17, loops),
        (TABLE, u32::MAX, loops),
        (TABLE, 16 * 0xffff, loops),
        (RAM_BYTES, 16, loops),
        (RAM_BYTES - 8, 16, loops),
        (u64::MAX - 15, 16, loops),
    ] {
        let mut driver = disk();
        driver.descriptor_at(TABLE, first);
        driver.descriptor(0, (table, length, INDIRECT, 0));
        driver.submit(0);
        driver.assert_stopped("bad descriptor chain");
    }
}

#[test]
fn an_indirect_chain_longer_than_the_ring_stops_the_device() {
    let mut driver = disk();
    header(&driver, IN, 0);
    for index in 0..=QUEUE_SIZE {
        let next = (BUFFERS, 1, NEXT, index + 1);
        driver.descriptor_at(TABLE + 16 * u64::from(index), next);
    }
    driver.descriptor_at(TABLE + 16 * u64::from(QUEUE_SIZE), (STATUS, 1, WRITE, 0));
    driver.descriptor(0, (TABLE, 16 * (u32::from(QUEUE_SIZE) + 1), INDIRECT, 0));
    driver.submit(0);
    driver.assert_stopped("more than 16 descriptors");
}

/// Ends just behind the ring's last entry and the queue's wrap.
#[test]
fn the_ring_wraps() {
    let mut driver = disk();
    for _ in 0..3 * QUEUE_SIZE {
        assert_eq!(ask(&mut driver, IN, 0, 512), (OK, 513));
    }
    assert_eq!(driver.used_index(), 3 * QUEUE_SIZE);
}

fn descriptors() -> impl Strategy<Value = Vec<(u64, u32, u16, u16)>> {
    let address = prop_oneof![
        8 => 0..RAM_BYTES,
        1 => RAM_BYTES - 0x1000..RAM_BYTES + 0x1000,
        1 => any::<u64>(),
    ];
    let length = prop_oneof![6 => 0..2000_u32, 2 => Just(512), 1 => any::<u32>()];
    let next = prop_oneof![9 => 0..8_u16, 1 => any::<u16>()];
    proptest::collection::vec((address, length, 0..8_u16, next), 8)
}

proptest! {
    /// Whatever the driver does, the device writes to nothing but the buffers it may write to and
    /// the used ring, and marks what it writes.
    #[test]
    fn hostile_chains_reach_nothing_else(
        ring in descriptors(),
        table in descriptors(),
        heads in proptest::collection::vec(0..9_u16, 1..5),
        kind in prop_oneof![3 => Just(IN), 1 => Just(OUT), 1 => Just(GET_ID), 1 => any::<u32>()],
        sector in prop_oneof![0..130_u64, any::<u64>()],
        begins_well in any::<bool>(),
    ) {
        let mut driver = disk();
        header(&driver, kind, sector);
        // Tables lie where nothing else does, so that only these descriptors are ever read.
        let mut allowed = Vec::new();
        for (index, (address, length, flags, next)) in (0..).zip(ring) {
            let indirect = flags & INDIRECT != 0;
            let entry = u64::from(next) % TABLE_ENTRIES;
            let descriptor = match index {
                0 if begins_well => (BUFFERS, 16, NEXT, 1),
                _ if indirect => (TABLE + 16 * entry, 16 * (8 - entry) as u32, INDIRECT, 0),
                _ => (address, length, flags, next),
            };
            driver.descriptor(index, descriptor);
            allowed.push(descriptor);
        }
        for (index, (address, length, flags, next)) in (0..).zip(table) {
            let flags = flags & !INDIRECT;
            driver.descriptor_at(TABLE + 16 * index, (address, length, flags, next));
            allowed.push((address, length, flags, next));
        }
        let allowed: Vec<(u64, u64)> = allowed
            .into_iter()
            .filter(|(_, _, flags, _)| flags & WRITE != 0)
            .map(|(address, length, ..)| (address, length.into()))
            .collect();
        for head in heads {
            driver.add(head);
        }
        driver.assert_confined(&allowed, |driver| driver.set(0x050, 0));
    }
}
