//! A machine for attacks: its devices are set up by the guest itself, and whatever becomes of it,
//! there is a golden state to come back to.

use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::guest::{self, Step};
use super::packet::{self, Packet};
use super::rings::{self, Chain, Device, RECEIVE};
use crate::devices::block::DiskImage;
use crate::machine::tests::captured::STRATEGIES;
use crate::machine::tests::tiny_guest::config;
use crate::machine::*;
use crate::snapshot::Difference;

const LIMIT: Duration = Duration::from_secs(60);
/// What attacks may cost beside the memory of the machine. Other tests share the process.
const MOST_GROWTH: u64 = 1 << 30;
/// Where the host listens.
pub const PORT: u32 = 7000;
/// Address of the guest's sockets.
pub const CID: u64 = 3;

/// What must come of an attack.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// The device goes on as if nothing had been.
    Works,
    /// The device works again when its driver starts it again.
    WorksOnceRestarted,
    /// The machine fails, and its reason contains this.
    Stops(&'static str),
    /// Either of the above: it depends on bytes that are random.
    Any,
}

/// A machine and its golden state, in which the devices are set up and the guest waits.
pub struct Stage {
    machine: Machine,
    golden: Arc<Golden>,
    resets: Cell<usize>,
    resident: u64,
}

impl Stage {
    pub fn new() -> Self {
        let resident = resident_bytes();
        let disk = DiskImage::from_bytes(&rings::disk()).unwrap();
        let config = MachineConfig { disk: Some(Arc::new(disk)), ..config(&guest::CODE) };
        let machine = Machine::create(config).unwrap();
        machine.boot_paused().unwrap();
        // Not golden yet: there is nothing else to go by before the first capture.
        let mut start = Vec::new();
        for device in Device::ALL {
            write(&machine, &rings::layout(device));
            start.extend(rings::start(device));
        }
        run(&machine, &start).unwrap();
        let golden = machine.capture().unwrap();
        Self { machine, golden, resets: Cell::new(0), resident }
    }

    /// Another machine of the same golden state.
    pub fn beside(&self) -> Self {
        let machine = Machine::fork(&self.golden).unwrap();
        let golden = Arc::clone(&self.golden);
        Self { machine, golden, resets: Cell::new(0), resident: self.resident }
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Runs a script to its end and pauses: what it read, or why the machine stopped.
    pub fn run(&self, steps: &[Step]) -> Result<Vec<u64>, StopReason> {
        run(&self.machine, steps)
    }

    /// Lets a script run that has no end.
    pub fn let_run(&self, steps: &[Step]) {
        write(&self.machine, &[(guest::SCRIPT, guest::script(steps)), (guest::GO, vec![1])]);
        self.machine.resume().unwrap();
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        write(&self.machine, &[(address, bytes.to_vec())]);
    }

    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.machine.read_memory(address, &mut bytes).unwrap();
        bytes
    }

    pub fn read16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address))
    }

    /// Writes a chain from descriptor 0 on into a device's request queue, and the steps that
    /// offer it to the device.
    pub fn offer(&self, device: Device, chain: &Chain) -> Vec<Step> {
        let ring = device.requests();
        for (index, descriptor) in chain.iter().enumerate() {
            self.put(ring.descriptor(index as u64), &rings::bytes(*descriptor));
        }
        // Every slot names the chain, so each addition to the index offers it again.
        self.put(ring.available + 4, &vec![0; 2 * usize::from(ring.size)]);
        vec![Step::Add16(ring.available + 2, 1), device.notify()]
    }

    /// Runs an attack on a device and sees what comes of it; then everything is golden again.
    pub fn suffer(&mut self, what: &str, device: Device, steps: &[Step], fate: Fate) {
        let outcome = self.run(steps);
        let reason = outcome.err();
        match (fate, &reason) {
            (Fate::Works, None) => self.assert_healthy(what),
            (Fate::WorksOnceRestarted, None) => {
                self.restart(device);
                self.assert_healthy(what);
            }
            (Fate::Stops(why), Some(StopReason::DeviceFault(fault))) => {
                assert!(fault.to_string().contains(why), "{what} on {device:?}: {fault}");
            }
            (Fate::Any, _) => {}
            _ => panic!("{what} on {device:?}: {reason:?}, not {fate:?}"),
        }
        if reason.is_some() {
            self.replace(what);
        }
        self.come_back(what);
    }

    /// The driver gives the device up and starts it again.
    pub fn restart(&self, device: Device) {
        write(&self.machine, &rings::layout(device));
        self.run(&rings::start(device)).unwrap();
    }

    /// A machine that stopped stays so, and another one of the golden state takes its place.
    fn replace(&mut self, what: &str) {
        let machine = &self.machine;
        assert!(matches!(machine.state().unwrap(), MachineState::Stopped(_)), "{what}");
        assert!(matches!(machine.reset(Strategy::CopyBack), Err(MachineError::WrongState { .. })));
        assert!(machine.vsock().connect(1, LIMIT).is_err(), "{what}");
        self.machine = Machine::fork(&self.golden).unwrap();
    }

    /// Resets, and compares with the golden state bit for bit before and after healthy requests.
    pub fn come_back(&self, what: &str) {
        self.reset(what);
        self.assert_healthy(what);
        assert_ne!(self.differences(), [], "{what}: requests that leave nothing behind?");
        self.reset(what);
        let grown = resident_bytes().saturating_sub(self.resident);
        assert!(grown < MOST_GROWTH, "{what}: {grown} bytes");
    }

    fn reset(&self, what: &str) {
        let number = self.resets.get();
        self.resets.set(number + 1);
        let strategy = STRATEGIES[number % STRATEGIES.len()];
        self.machine.reset(strategy).unwrap();
        assert_eq!(self.differences(), [], "{what}, {}", strategy.name());
    }

    pub fn differences(&self) -> Vec<Difference> {
        self.machine.differences().unwrap().0
    }

    /// Every device does what it is for.
    pub fn assert_healthy(&self, what: &str) {
        self.disk_is_healthy(what);
        self.entropy_is_healthy(what);
        self.sockets_are_healthy(what);
    }

    /// Makes a request and expects the device to use it once.
    fn request(&self, what: &str, device: Device, chain: &Chain) {
        let used = device.requests().used + 2;
        let before = self.read16(used);
        let steps = self.offer(device, chain);
        self.run(&steps).unwrap();
        assert_eq!(self.read16(used), before.wrapping_add(1), "{what}: {device:?}");
    }

    fn disk_is_healthy(&self, what: &str) {
        let data = [0x5a; 512];
        for (kind, sector, before, after) in [
            (rings::READ, 1, [0; 512], rings::sector(1)),
            (rings::WRITE_DISK, 2, data, data),
            (rings::READ, 2, [0; 512], data),
        ] {
            self.put(rings::HEADER, &rings::disk_header(kind, sector));
            self.put(rings::DATA, &before);
            self.put(rings::STATUS, &[0xff]);
            self.request(what, Device::Disk, &rings::disk_request(kind));
            assert_eq!(self.read(rings::STATUS), [0], "{what}");
            assert_eq!(self.read(rings::DATA), after, "{what}");
        }
    }

    fn entropy_is_healthy(&self, what: &str) {
        self.put(rings::DATA, &[0; 64]);
        self.request(what, Device::Entropy, &rings::good(Device::Entropy));
        assert_ne!(self.read(rings::DATA), [0; 64], "{what}");
    }

    /// Opens a connection, sends bytes both ways, and ends it.
    fn sockets_are_healthy(&self, what: &str) {
        let listener = self.machine.vsock().listen(PORT).unwrap();
        self.send(&Packet::request(40_000));
        let mut stream = listener.accept(Some(LIMIT)).expect(what);
        self.send(&Packet { op: packet::DATA, ..Packet::request(40_000) }.with(b"ping"));
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).expect(what);
        assert_eq!(&heard, b"ping");
        stream.write_all(b"pong").expect(what);
        // What the host wrote while the machine was held is delivered when it goes on.
        self.run(&[Step::Put32(RECEIVE.device.register(0x050), 0)]).unwrap();
        assert_eq!(&self.received().expect(what).1, b"pong", "{what}");
        self.send(&Packet { op: packet::RESET, ..Packet::request(40_000) });
    }

    /// Sends a packet and gives back the buffers of packets received before.
    pub fn send(&self, packet: &Packet) {
        self.put(rings::HEADER, &packet.header());
        self.put(rings::DATA, &packet.payload);
        let steps = self.offer(Device::Sockets, &packet.chain());
        self.run(&steps).unwrap();
        let taken = self.read16(RECEIVE.used + 2).wrapping_add(rings::RECEIVE_BUFFERS);
        self.put(RECEIVE.available + 2, &taken.to_le_bytes());
    }

    /// The packet that the guest received last: its header and its payload of four bytes.
    pub fn received(&self) -> Option<(Packet, [u8; 4])> {
        let last = self.read16(RECEIVE.used + 2).checked_sub(1)?;
        let slot = RECEIVE.used + 4 + 8 * u64::from(last % RECEIVE.size);
        let buffer = rings::receive_buffer(u32::from_le_bytes(self.read(slot)).into());
        let header = Packet::parse(&self.read(buffer));
        Some((header, self.read(buffer + packet::HEADER_BYTES)))
    }
}

fn write(machine: &Machine, pieces: &[(u64, Vec<u8>)]) {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    for (address, bytes) in pieces {
        live.core.vm.ram().write_slice(bytes, GuestAddress(*address)).unwrap();
    }
}

fn run(machine: &Machine, steps: &[Step]) -> Result<Vec<u64>, StopReason> {
    write(machine, &[(guest::SCRIPT, guest::script(steps)), (guest::GO, vec![1])]);
    let seen = machine.checkpoint().map_or(0, |mark| mark.count);
    machine.resume().unwrap();
    let deadline = Instant::now() + LIMIT;
    while machine.wait_checkpoint(seen, Duration::from_millis(20)).is_none() {
        if let Some(reason) = machine.stop_reason() {
            return Err(reason);
        }
        assert!(Instant::now() < deadline, "the script does not end");
    }
    machine.pause().unwrap();
    let reads = steps.iter().filter(|step| matches!(step, Step::Get8(_) | Step::Get32(_)));
    let mut bytes = vec![0; 8 * reads.count()];
    machine.read_memory(guest::RESULTS, &mut bytes).unwrap();
    Ok(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}
