//! Registers at the wrong time, of the wrong width, with the wrong values.

use super::guest::{Step, register};
use super::rings::{self, DATA, Device, END, Ring};
use super::stage::Fate::{Stops, Works, WorksOnceRestarted};
use super::stage::Stage;

/// Registers of a queue that decide where it lies and how long it is.
const QUEUE: [u64; 8] = [0x038, 0x044, 0x080, 0x084, 0x090, 0x094, 0x0a0, 0x0a4];
const ELSEWHERE: u64 = 0x30_0000;

fn set(device: Device, offset: u64, value: u32) -> Step {
    Step::Put32(device.register(offset), value)
}

#[test]
fn a_queue_at_work_cannot_be_changed() {
    let mut stage = Stage::new();
    for device in Device::ALL {
        let select = set(device, 0x030, device.requests().queue);
        for value in [0, 1, 2, 3, 0x1000, 0xd000_0000, u32::MAX] {
            let mut steps = vec![select];
            steps.extend(QUEUE.map(|offset| set(device, offset, value)));
            // Neither by going back a step.
            steps.extend([set(device, 0x070, 11), set(device, 0x070, 3)]);
            steps.extend(QUEUE.map(|offset| set(device, offset, value)));
            steps.extend([set(device, 0x024, 1), set(device, 0x020, value)]);
            steps.push(device.notify());
            stage.suffer(&format!("{value:#x} at work"), device, &steps, Works);
        }
    }
}

/// What the test above shows would show nothing if these registers never did anything.
#[test]
fn a_queue_that_is_not_yet_at_work_can_be_changed() {
    let stage = Stage::new();
    for device in [Device::Disk, Device::Entropy] {
        let moved: Vec<Ring> = device.rings().iter().map(|ring| ring.moved(ELSEWHERE)).collect();
        stage.run(&rings::start_with(device, &moved)).unwrap();
        let (old, new) = (device.requests(), moved[0]);
        stage.put(rings::HEADER, &rings::disk_header(rings::READ, 1));
        for (index, descriptor) in (0..).zip(rings::good(device)) {
            stage.put(new.descriptor(index), &rings::bytes(descriptor));
        }
        stage.put(DATA, &[0; 64]);
        stage.run(&[Step::Add16(new.available + 2, 1), device.notify()]).unwrap();
        assert_eq!((stage.read16(old.used + 2), stage.read16(new.used + 2)), (0, 1));
        assert_ne!(stage.read(DATA), [0; 64]);
        stage.come_back("a queue elsewhere");
    }
}

#[test]
fn lengths_that_no_queue_can_have_are_not_taken() {
    let mut stage = Stage::new();
    let device = Device::Entropy;
    let ring = device.requests();
    let start = |length: u32| {
        let mut steps = rings::start(device);
        let at = device.register(0x038);
        for step in &mut steps {
            if matches!(step, Step::Put32(address, _) if *address == at) {
                *step = Step::Put32(at, length);
            }
        }
        steps
    };
    // As many requests at once tell how long the queue is.
    let sixteen = |stage: &Stage, length| {
        let mut steps = start(length);
        stage.offer(device, &rings::good(device));
        steps.extend([Step::Add16(ring.available + 2, 16), device.notify()]);
        steps
    };
    for length in [0, 3, 15, 17, 24, 32, 0x8000, 0xffff, 0x1_0000, 0x1_0010, u32::MAX] {
        let steps = sixteen(&stage, length);
        stage.suffer(&format!("{length} entries"), device, &steps, Works);
    }
    let steps = sixteen(&stage, 8);
    stage.suffer("8 entries, which are taken", device, &steps, Stops("broken ring"));
}

#[test]
fn rings_where_there_is_no_memory_stop_the_machine() {
    let mut stage = Stage::new();
    for device in Device::ALL {
        for at in [END - 0x10, 0xd000_0000, !0xfff] {
            let parts: [fn(&mut Ring, u64); 3] =
                [|r, at| r.table = at, |r, at| r.available = at, |r, at| r.used = at];
            for part in parts {
                let mut bad = device.rings().to_vec();
                part(bad.last_mut().unwrap(), at);
                let steps = rings::start_with(device, &bad);
                let fate = Stops("outside guest RAM");
                stage.suffer(&format!("a ring at {at:#x}"), device, &steps, fate);
            }
        }
    }
}

#[test]
fn bells_of_queues_that_do_not_exist_ring_for_nobody() {
    let mut stage = Stage::new();
    for device in Device::ALL {
        let steps: Vec<Step> = [3, 4, 0x7fff, 0xffff, 0x1_0000, 0x1_0001, u32::MAX]
            .map(|queue| set(device, 0x050, queue))
            .to_vec();
        stage.suffer("no such queue", device, &steps, Works);
    }
}

#[test]
fn accesses_of_any_width_at_any_place_do_nothing() {
    let mut stage = Stage::new();
    for device in Device::ALL {
        let mut steps = Vec::new();
        for offset in (0..0x140).chain(0xff0..0x1000) {
            let at = device.register(offset);
            steps.extend([Step::Put8(at, 0xff), Step::Put16(at, 0xffff), Step::Put64(at, !0)]);
            steps.extend([Step::Get8(at), Step::Get32(at)]);
            if offset % 4 != 0 {
                steps.push(Step::Put32(at, u32::MAX));
            }
        }
        stage.suffer("any width", device, &steps, Works);
    }
    // Beside the devices there is nothing, and it says so.
    let beside = [register(3, 0), register(3, 0x50), register(31, 0), register(511, 0xffc)];
    let mut steps = beside.map(|at| Step::Put32(at, 0)).to_vec();
    steps.extend(beside.map(Step::Get32));
    assert_eq!(stage.run(&steps).unwrap(), [0xffff_ffff; 4]);
    stage.come_back("beside the devices");
}

#[test]
fn a_driver_that_gives_up_half_way_can_start_again() {
    let mut stage = Stage::new();
    for device in Device::ALL {
        for (what, values) in [
            ("nothing but a reset", vec![0]),
            ("failure", vec![0x80]),
            ("everything at once", vec![0, 0xff]),
            ("ready before anything else", vec![0, 15]),
            ("ready without queues' addresses", vec![0, 1, 3]),
            ("resets without end", vec![0; 2000]),
        ] {
            // A request is in the ring that the device has not heard of.
            let mut steps = stage.offer(device, &rings::good(device));
            steps.pop();
            steps.extend(values.iter().map(|value| set(device, 0x070, *value)));
            steps.extend([device.notify(), set(device, 0x064, u32::MAX)]);
            stage.suffer(what, device, &steps, WorksOnceRestarted);
        }
        let mut steps = rings::start(device);
        // All features there could be, which are refused, and a driver that does not care.
        steps[4] = set(device, 0x020, u32::MAX);
        steps[6] = set(device, 0x020, u32::MAX);
        steps.push(device.notify());
        stage.suffer("features never offered", device, &steps, WorksOnceRestarted);
    }
}
