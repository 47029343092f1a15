//! A device that this program does not have, added to the list: nothing else changes.

use vm_memory::GuestAddress;

use super::*;
use crate::devices::builder::ByType;
use crate::devices::console::Console;
use crate::devices::irq::IrqLine;
use crate::devices::list::{DEVICES, virtio_slots};
use crate::devices::virtio::DeviceFault;
use crate::devices::virtio::one_queue::{OneQueue, RequestHandler};
use crate::devices::virtio::request_queue::Completion;
use crate::devices::virtio::transport::Slot;
use crate::devices::virtio::virtqueue::QueueName;
use crate::devices::vsock::VsockDevice;
use crate::memory::GuestRam;

const SHAPE: MachineShape = MachineShape { has_disk: false, guest_cid: 3 };

/// Takes every request and does nothing.
struct Sink;

impl RequestHandler for Sink {
    const KIND: &'static str = "sink";
    const VERSION: u32 = 7;
    const QUEUE: QueueName = QueueName { device: "sink", queue: 0 };
    const DEVICE_TYPE: u32 = 42;
    const FEATURES: u64 = 0;
    const QUEUE_SIZES: [u16; 1] = [8];

    fn handle(
        &mut self,
        _: &GuestRam,
        _: virtio_queue::DescriptorChain<&GuestRam>,
        _: u16,
    ) -> Result<Completion, DeviceFault> {
        Ok(Completion { written: 0, copied: 0 })
    }

    fn create(_: &mut ByType) -> Result<Self, String> {
        Ok(Self)
    }
}

struct Quiet;

impl IrqLine for Quiet {
    fn pulse(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The devices of this program, and one more line.
fn list() -> Vec<DeviceKind> {
    let mut list = DEVICES.to_vec();
    list.push(DeviceKind::virtio::<OneQueue<Sink>>());
    list
}

fn machine(list: &[DeviceKind]) -> DeviceSet {
    let ram = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
    let mut resources = ByType::default();
    resources.put(Console::new(64));
    resources.put(VsockDevice::new(u64::from(SHAPE.guest_cid)).0);
    let line = |_| -> Box<dyn IrqLine> { Box::new(Quiet) };
    let builder = Builder::new(resources, ram, &line, Arc::new(|_| {}));
    DeviceSet::build(list, SHAPE, builder).unwrap()
}

/// Does what a driver does with the device in the last slot.
fn activate_last(set: &DeviceSet, list: &[DeviceKind]) {
    let window = Slot(virtio_slots(list, SHAPE) - 1).window();
    let steps: [(u64, u32); 13] = [
        (0x70, 1),
        (0x70, 3),
        (0x24, 1),
        (0x20, 1),
        (0x70, 11),
        (0x30, 0),
        (0x38, 8),
        (0x80, 0x1000),
        (0x90, 0x2000),
        (0xa0, 0x3000),
        (0x44, 1),
        (0x70, 15),
        (0x50, 0),
    ];
    for (register, value) in steps {
        set.bus.mmio_write(window.start + register, &value.to_le_bytes());
    }
    let mut status = [0; 4];
    set.bus.mmio_read(window.start + 0x70, &mut status);
    assert_eq!(u32::from_le_bytes(status), 15);
}

fn parts(then: &DeviceStates, now: &DeviceStates) -> Vec<&'static str> {
    then.compare(now).into_iter().map(|mismatch| mismatch.part).collect()
}

#[test]
fn a_new_device_is_one_line_and_is_captured_reset_compared_and_saved() {
    let list = list();
    let set = machine(&list);
    let inactive = set.capture().unwrap();
    activate_last(&set, &list);
    let golden = set.capture().unwrap();
    assert_eq!(parts(&inactive, &golden), ["virtio-mmio", "sink"]);
    assert!(set.corrupt().unwrap());
    assert_eq!(parts(&golden, &set.capture().unwrap()), ["virtio-mmio", "sink"]);
    set.quiesce();
    set.restore(&golden).unwrap();
    set.resume();
    assert_eq!(set.capture().unwrap(), golden);

    let loaded = DeviceStates::decode(&list, SHAPE, &golden.encode().unwrap()).unwrap();
    assert_eq!(loaded, golden);
    let fork = machine(&list);
    fork.restore(&loaded).unwrap();
    assert_eq!(fork.capture().unwrap(), golden);
    let described: Vec<String> =
        loaded.iter().flat_map(DeviceState::describe).map(|(name, _)| name).collect();
    assert!(described.contains(&"virtio-mmio of sink".to_owned()), "{described:?}");
}

#[test]
fn states_of_other_devices_are_refused() {
    let set = machine(DEVICES);
    let more = machine(&list()).capture().unwrap();
    assert!(set.restore(&more).unwrap_err().to_string().contains("another device"));
    let mut other = set.capture().unwrap();
    other.0.reverse();
    assert!(set.restore(&other).unwrap_err().to_string().contains("another device"));
    assert_ne!(set.capture().unwrap(), other);
}

#[test]
fn devices_and_versions_that_this_program_does_not_know_are_refused_by_name() {
    let list = list();
    let states = machine(&list).capture().unwrap();
    let bytes = states.encode().unwrap();
    let error = DeviceStates::decode(DEVICES, SHAPE, &bytes).unwrap_err();
    assert_eq!(error.to_string(), "device `sink` is unknown to this program");
    let mut newer = list.clone();
    newer.last_mut().unwrap().version = 8;
    let error = DeviceStates::decode(&newer, SHAPE, &bytes).unwrap_err();
    assert_eq!(error.to_string(), "device `sink` has version 7, this program reads version 8");
}

#[test]
fn lists_that_fit_no_machine_are_refused() {
    let states = machine(DEVICES).capture().unwrap();
    let bytes = states.encode().unwrap();
    let refused = |bytes: &[u8], shape| DeviceStates::decode(DEVICES, shape, bytes).unwrap_err();
    let with_disk = MachineShape { has_disk: true, ..SHAPE };
    assert!(matches!(refused(&bytes, with_disk), DecodeError::Devices { .. }));
    let other_cid = MachineShape { guest_cid: 4, ..SHAPE };
    assert!(matches!(refused(&bytes, other_cid), DecodeError::Device { kind: "vsock", .. }));
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(refused(&longer, SHAPE), DecodeError::Trailing));
    for length in 0..bytes.len() {
        refused(&bytes[..length], SHAPE);
    }
    let many = postcard::to_stdvec(&u32::MAX).unwrap();
    assert!(matches!(refused(&many, SHAPE), DecodeError::TooMany(u32::MAX)));
    let mut twice = states;
    let again = machine(DEVICES).capture().unwrap();
    twice.0.extend(again.0.into_iter().take(1));
    assert!(matches!(refused(&twice.encode().unwrap(), SHAPE), DecodeError::Devices { .. }));
}
