//! Descriptors and rings.

use super::guest::Step;
use super::rings::{
    self, Chain, DATA, Device, END, HEADER, INDIRECT, NEXT, Ring, STATUS, TABLE, WRITE,
};
use super::stage::Fate::{self, Any, Stops, Works};
use super::stage::Stage;

/// The first device register, and the end of what 64 bits can count.
const HOLE: u64 = 0xd000_0000;
const LAST: u64 = u64::MAX;
const NOT_RAM: Fate = Stops("not all RAM");
const BAD: Fate = Stops("bad descriptor chain");

/// The steps of a request of this device that is made with `chain`.
fn request(stage: &Stage, device: Device, chain: &Chain) -> Vec<Step> {
    if device == Device::Disk {
        stage.put(HEADER, &rings::disk_header(rings::READ, 1));
    }
    stage.offer(device, chain)
}

#[test]
fn the_same_script_with_a_correct_request_is_answered() {
    let mut stage = Stage::new();
    for device in Device::ALL {
        let mut steps = request(&stage, device, &rings::good(device));
        let used = device.requests().used + 2;
        steps.push(Step::Get32(used & !3));
        assert_eq!(stage.run(&steps).unwrap()[0] >> 16, 1, "{device:?}");
        assert_ne!(stage.differences(), [], "{device:?}: the oracle sees nothing");
        stage.come_back("a correct request");
        // What an attack is expected to come to is checked at all.
        let steps = request(&stage, device, &rings::good(device));
        let wrong = std::panic::AssertUnwindSafe(|| stage.suffer("none", device, &steps, BAD));
        assert!(std::panic::catch_unwind(wrong).is_err(), "{device:?}");
        stage.come_back("a correct request");
    }
}

#[test]
fn a_broken_chain_stops_the_machine_and_nothing_else() {
    type Spoil = fn(&mut Chain, Ring);
    let attacks: &[(&str, Fate, Spoil)] = &[
        ("a chain that bites its tail", BAD, |chain, _| {
            let last = chain.last_mut().unwrap();
            (last.2, last.3) = (last.2 | NEXT, 0);
        }),
        ("the next one is the first after the table", BAD, |chain, ring| {
            let last = chain.last_mut().unwrap();
            (last.2, last.3) = (last.2 | NEXT, ring.size);
        }),
        ("the next one is far outside the table", BAD, |chain, _| {
            let last = chain.last_mut().unwrap();
            (last.2, last.3) = (last.2 | NEXT, u16::MAX);
        }),
        ("a buffer right after RAM", NOT_RAM, |chain, _| chain[0].0 = END),
        ("a buffer across the end of RAM", NOT_RAM, |chain, _| chain[0].0 = END - 8),
        ("a buffer over device registers", NOT_RAM, |chain, _| chain[0].0 = HOLE),
        ("a buffer where nothing can be", NOT_RAM, |chain, _| chain[0].0 = 1 << 52),
        ("an end beyond 64 bits", NOT_RAM, |chain, _| chain[0].0 = LAST - 8),
        ("all there is and more", NOT_RAM, |chain, _| chain[0].1 = u32::MAX),
        ("the last one outside RAM", NOT_RAM, |chain, _| chain.last_mut().unwrap().0 = HOLE),
        ("a buffer at the very end of RAM", Works, |chain, _| {
            let last = chain.last_mut().unwrap();
            last.0 = END - u64::from(last.1);
        }),
        ("a buffer of nothing among the others", Works, |chain, ring| {
            let at = ring.descriptor(0);
            let (_, _, flags, _) = *chain.last().unwrap();
            let number = chain.len() as u16;
            chain.last_mut().unwrap().2 |= NEXT;
            chain.last_mut().unwrap().3 = number;
            chain.push((at, 0, flags & WRITE, 0));
        }),
        ("descriptors over one another", Works, |chain, _| {
            for descriptor in chain {
                descriptor.0 = DATA;
            }
        }),
        ("the last buffer over the descriptors", Any, |chain, ring| {
            chain.last_mut().unwrap().0 = ring.table;
        }),
        ("the last buffer over the available ring", Any, |chain, ring| {
            chain.last_mut().unwrap().0 = ring.available;
        }),
        ("the last buffer over the used ring", Any, |chain, ring| {
            chain.last_mut().unwrap().0 = ring.used;
        }),
    ];
    let mut stage = Stage::new();
    for device in Device::ALL {
        for (what, fate, spoil) in attacks {
            let mut chain = rings::good(device);
            spoil(&mut chain, device.requests());
            let mut steps = request(&stage, device, &chain);
            steps.push(device.notify());
            stage.suffer(what, device, &steps, *fate);
        }
    }
}

#[test]
fn buffers_without_a_byte_or_in_the_wrong_direction() {
    let mut stage = Stage::new();
    for (device, empty, turned) in [
        (Device::Disk, Stops("no place for the status"), Works),
        (Device::Sockets, BAD, Stops("wrong direction")),
        (Device::Entropy, Works, Stops("wrong direction")),
    ] {
        let chain =
            rings::good(device).into_iter().map(|(at, _, flags, next)| (at, 0, flags, next));
        let steps = request(&stage, device, &chain.collect());
        stage.suffer("no bytes at all", device, &steps, empty);
        let mut chain = rings::good(device);
        chain[0].2 ^= WRITE;
        let steps = request(&stage, device, &chain);
        stage.suffer("the other direction", device, &steps, turned);
    }
}

/// No device offers indirect descriptors, and a guest may use them all the same.
#[test]
fn indirect_tables_get_nobody_further() {
    let mut stage = Stage::new();
    for device in Device::ALL {
        let ring = device.requests();
        let inner = rings::good(device);
        let length = 16 * inner.len() as u32;
        let long: Chain = (0..=ring.size).map(|n| (STATUS, 1, WRITE | NEXT, n + 1)).collect();
        let nested = vec![(ring.table, 16, INDIRECT, 0)];
        let bent = vec![(TABLE, length, INDIRECT | NEXT, 0)];
        let table = |length| vec![(TABLE, length, INDIRECT, 0)];
        let at = |address| vec![(address, length, INDIRECT, 0)];
        for (what, outer, inner, fate) in [
            ("a table", table(length), &inner, Works),
            ("a table in a table", table(16), &nested, BAD),
            ("a table that contains itself", at(ring.table), &inner, BAD),
            ("a table longer than the ring", table(16 * long.len() as u32), &long, BAD),
            ("half a descriptor", table(length - 8), &inner, BAD),
            ("no descriptor", table(0), &inner, BAD),
            ("more descriptors than memory", table(!15), &inner, BAD),
            ("a table across the end of RAM", at(END - 8), &inner, BAD),
            ("a table over device registers", at(HOLE), &inner, BAD),
            ("a table beyond 64 bits", at(LAST - 8), &inner, BAD),
            ("a table that goes on", bent, &inner, Any),
        ] {
            let bytes: Vec<u8> = inner.iter().flat_map(|entry| rings::bytes(*entry)).collect();
            stage.put(TABLE, &bytes);
            let steps = request(&stage, device, &outer);
            stage.suffer(what, device, &steps, fate);
        }
    }
}

#[test]
fn an_index_that_jumps_or_a_head_outside_the_table_stops_the_machine() {
    let mut stage = Stage::new();
    for device in Device::ALL {
        let ring = device.requests();
        let good = rings::good(device);
        for (by, fate) in [
            (1, Works),
            (ring.size, Works),
            (ring.size + 1, Stops("broken ring")),
            (0x8000, Stops("broken ring")),
            (u16::MAX, Stops("broken ring")),
        ] {
            request(&stage, device, &good);
            let steps = [Step::Add16(ring.available + 2, by), device.notify()];
            stage.suffer(&format!("{by} at once"), device, &steps, fate);
        }
        for head in [ring.size, u16::MAX] {
            let mut steps = request(&stage, device, &good);
            steps.insert(0, Step::Put16(ring.available + 4, head));
            stage.suffer("a head outside the table", device, &steps, Stops("broken ring"));
        }
    }
}
