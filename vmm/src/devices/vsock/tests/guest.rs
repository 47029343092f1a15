//! A guest: driver, and a small vsock stack on top of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress};

use super::LIMIT;
use super::driver::{DriverRing, Part};
use crate::devices::virtio::{
    Activation, DeviceFault, FaultLatch, Interrupt, IrqLine, VirtioDevice,
};
use crate::devices::vsock::connection::Ports;
use crate::devices::vsock::packet::{HEADER_BYTES, Op, PacketHeader, SHUTDOWN_BOTH};
use crate::devices::vsock::queue::{EVENT, RECEIVE, TRANSMIT};
use crate::devices::vsock::{VsockDevice, VsockHost};
use crate::memory::GuestRam;

pub const CID: u64 = 3;
pub const RAM_BYTES: u64 = 32 << 20;
const SLOT_BYTES: u64 = 0x1_1000;
const RECEIVE_BUFFERS: u64 = 0x10_0000;
const TRANSMIT_BUFFERS: u64 = 0xc0_0000;
const EVENT_BUFFERS: u64 = 0x8_0000;
/// Descriptors per chain of the transmit ring.
pub const PARTS: u16 = 4;

#[derive(Default)]
pub struct Line(AtomicU64);

struct SharedLine(Arc<Line>);

impl IrqLine for SharedLine {
    fn pulse(&self) -> io::Result<()> {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// How the guest behaves.
#[derive(Clone, Copy)]
pub struct Behaviour {
    pub event_idx: bool,
    /// Bytes of one receive buffer, header included.
    pub receive_bytes: u32,
    /// Receive buffers posted at start.
    pub receive_buffers: u16,
    /// What the guest says its sockets can buffer.
    pub buffer: u32,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { event_idx: true, receive_bytes: 4096, receive_buffers: 64, buffer: 256 << 10 }
    }
}

/// The guest's half of one connection.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    pub established: bool,
    pub received: Vec<u8>,
    pub to_send: VecDeque<u8>,
    pub sent: u32,
    pub credit_limit: u32,
    pub host_forwarded: u32,
    pub forwarded: u32,
    pub advertised: u32,
    /// Bytes received but not read by the guest's program, which then gives no credit.
    pub hoard: bool,
    pub shutdown: u32,
    pub reset: bool,
    /// Send back what comes in.
    pub echo: bool,
}

pub struct Guest {
    pub memory: Arc<GuestRam>,
    pub device: VsockDevice,
    pub host: VsockHost,
    pub receive: DriverRing,
    pub transmit: DriverRing,
    pub event: DriverRing,
    pub faults: Arc<Mutex<Vec<DeviceFault>>>,
    pub latch: Arc<FaultLatch>,
    line: Arc<Line>,
    pub behaviour: Behaviour,
    pub peers: BTreeMap<Ports, Peer>,
    pub listening: BTreeSet<u32>,
    /// Everything received, newest last.
    pub log: Vec<PacketHeader>,
    pub kicks: u64,
}

impl Guest {
    pub fn start(behaviour: Behaviour) -> Self {
        let (device, host) = VsockDevice::new(CID);
        Self::start_with(behaviour, device, host)
    }

    pub fn start_with(behaviour: Behaviour, device: VsockDevice, host: VsockHost) -> Self {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).unwrap();
        let memory = Arc::new(memory);
        let ring =
            |base, size, stride| DriverRing::new(&memory, base, size, stride, behaviour.event_idx);
        let line = Arc::new(Line::default());
        let interrupt = Arc::new(Interrupt::new(Box::new(SharedLine(Arc::clone(&line)))));
        let faults = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let faults = Arc::clone(&faults);
            Arc::new(move |fault: &DeviceFault| faults.lock().unwrap().push(fault.clone()))
        };
        let latch = Arc::new(FaultLatch::new(Arc::clone(&interrupt), sink));
        let mut guest = Self {
            receive: ring(0x1000, 64, 1),
            transmit: ring(0x4000, 128, PARTS),
            event: ring(0x7000, 8, 1),
            memory,
            device,
            host,
            faults,
            latch: Arc::clone(&latch),
            line,
            behaviour,
            peers: BTreeMap::new(),
            listening: BTreeSet::new(),
            log: Vec::new(),
            kicks: 0,
        };
        let activation = guest.activation(interrupt);
        guest.device.activate(activation).unwrap();
        for _ in 0..behaviour.receive_buffers {
            guest.post_receive(behaviour.receive_bytes);
        }
        guest.kick(RECEIVE);
        guest
    }

    fn activation(&self, interrupt: Arc<Interrupt>) -> Activation {
        let event_idx = u64::from(self.behaviour.event_idx) << VIRTIO_RING_F_EVENT_IDX;
        Activation {
            memory: Arc::clone(&self.memory),
            queues: vec![self.receive.queue(), self.transmit.queue(), self.event.queue()],
            interrupt,
            faults: Arc::clone(&self.latch),
            features: 1 << 32 | event_idx,
        }
    }

    pub fn interrupts(&self) -> u64 {
        self.line.0.load(Ordering::SeqCst)
    }

    /// Notifies the device as the transport would, if it wants to be notified.
    pub fn kick(&mut self, queue: u16) {
        let wanted = match queue {
            RECEIVE => self.receive.should_kick(),
            TRANSMIT => self.transmit.should_kick(),
            _ => self.event.should_kick(),
        };
        if wanted {
            self.force_kick(queue);
        }
    }

    pub fn force_kick(&mut self, queue: u16) {
        self.kicks += 1;
        if self.latch.is_raised() {
            return;
        }
        if let Err(fault) = self.device.notify(queue) {
            self.latch.raise(&fault);
        }
    }

    /// Posts a receive buffer; false when the ring is full.
    pub fn post_receive(&mut self, length: u32) -> bool {
        // With one descriptor per chain, the head is also the slot of the buffer.
        self.receive.add_one(|head| {
            let address = RECEIVE_BUFFERS + SLOT_BYTES * u64::from(head);
            Part { address, length, writable: true }
        })
    }

    pub fn post_event(&mut self) {
        let address = EVENT_BUFFERS;
        self.event.add(&[Part { address, length: 4, writable: true }]).unwrap();
        self.kick(EVENT);
    }

    /// Puts bytes into the transmit ring in parts of the given sizes (the last takes the rest).
    pub fn transmit_bytes(&mut self, bytes: &[u8], sizes: &[usize]) {
        while self.transmit.take_used().is_some() {}
        let address = TRANSMIT_BUFFERS + SLOT_BYTES * u64::from(self.transmit.published % 32);
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        let mut parts = Vec::new();
        let mut at = 0;
        for size in sizes.iter().copied().chain([usize::MAX]) {
            let length = size.min(bytes.len() - at);
            parts.push(Part {
                address: address + at as u64,
                length: length as u32,
                writable: false,
            });
            at += length;
        }
        self.transmit.add(&parts).expect("the device is not taking packets");
    }

    /// True when a packet can be put into the transmit ring.
    pub fn can_transmit(&mut self) -> bool {
        while self.transmit.take_used().is_some() {}
        self.transmit.has_free()
    }

    /// A header from the guest to the host, with the guest's credit for that connection.
    pub fn header(&self, ports: Ports, op: Op) -> PacketHeader {
        let forwarded = self.peers.get(&ports).map_or(0, |peer| peer.forwarded);
        PacketHeader {
            src_cid: CID,
            dst_cid: 2,
            src_port: ports.guest,
            dst_port: ports.host,
            kind: 1,
            op: op as u16,
            buf_alloc: self.behaviour.buffer,
            fwd_cnt: forwarded,
            ..PacketHeader::default()
        }
    }

    pub fn send_raw(&mut self, header: PacketHeader, payload: &[u8]) {
        let bytes = [&header.to_bytes(), payload].concat();
        self.transmit_bytes(&bytes, &[HEADER_BYTES]);
        self.kick(TRANSMIT);
    }

    pub fn send(&mut self, ports: Ports, op: Op) {
        self.send_raw(self.header(ports, op), &[]);
    }

    pub fn send_payload(&mut self, ports: Ports, payload: &[u8]) {
        let header = PacketHeader { len: payload.len() as u32, ..self.header(ports, Op::Rw) };
        if let Some(peer) = self.peers.get_mut(&ports) {
            peer.sent = peer.sent.wrapping_add(payload.len() as u32);
        }
        self.send_raw(header, payload);
    }

    pub fn send_shutdown(&mut self, ports: Ports, flags: u32) {
        let header = PacketHeader { flags, ..self.header(ports, Op::Shutdown) };
        self.send_raw(header, &[]);
    }

    /// Packets that have arrived, without giving the buffers back.
    pub fn collect(&mut self) -> Vec<(PacketHeader, Vec<u8>)> {
        let mut packets = Vec::new();
        while let Some((head, written)) = self.receive.take_used() {
            let address = GuestAddress(RECEIVE_BUFFERS + SLOT_BYTES * u64::from(head));
            let mut bytes = vec![0; written as usize];
            self.memory.read_slice(&mut bytes, address).unwrap();
            let header = PacketHeader::parse(bytes[..HEADER_BYTES].try_into().unwrap());
            let payload = bytes[HEADER_BYTES..].to_vec();
            assert_eq!(payload.len(), header.len as usize);
            self.log.push(header);
            packets.push((header, payload));
        }
        packets
    }

    /// Takes packets and gives the buffers back.
    pub fn receive(&mut self) -> Vec<(PacketHeader, Vec<u8>)> {
        let packets = self.collect();
        while self.post_receive(self.behaviour.receive_bytes) {}
        self.kick(RECEIVE);
        packets
    }

    /// Opens a connection and waits for the answer; true when accepted.
    pub fn connect(&mut self, ports: Ports) -> bool {
        self.peers.insert(ports, Peer::default());
        self.send(ports, Op::Request);
        self.run_until(|guest| {
            let peer = &guest.peers[&ports];
            peer.established || peer.reset
        });
        self.peers[&ports].established
    }

    /// Handles everything that has arrived and sends what may be sent. True when something
    /// happened.
    pub fn step(&mut self) -> bool {
        let packets = self.receive();
        let mut busy = !packets.is_empty();
        for (header, payload) in packets {
            self.handle(&header, &payload);
        }
        let ports: Vec<Ports> = self.peers.keys().copied().collect();
        for ports in ports {
            busy |= self.push(ports);
        }
        busy
    }

    /// Steps until `done`.
    pub fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let busy = self.step();
            if done(self) {
                return;
            }
            assert!(Instant::now() < deadline, "the guest waits for ever");
            if !busy {
                thread::yield_now();
            }
        }
    }

    fn handle(&mut self, header: &PacketHeader, payload: &[u8]) {
        assert_eq!((header.src_cid, header.dst_cid), (2, CID));
        let ports = Ports { guest: header.dst_port, host: header.src_port };
        let op = Op::from_raw(header.op).unwrap();
        if op == Op::Request {
            if self.listening.contains(&ports.guest) {
                let peer = Peer {
                    established: true,
                    credit_limit: header.buf_alloc,
                    host_forwarded: header.fwd_cnt,
                    ..Peer::default()
                };
                self.peers.insert(ports, peer);
                self.send(ports, Op::Response);
            } else {
                self.send(ports, Op::Rst);
            }
            return;
        }
        let buffer = self.behaviour.buffer;
        let Some(peer) = self.peers.get_mut(&ports) else {
            if op != Op::Rst {
                self.send(ports, Op::Rst);
            }
            return;
        };
        if op != Op::Rst {
            peer.credit_limit = header.buf_alloc;
            peer.host_forwarded = header.fwd_cnt;
        }
        match op {
            Op::Response => peer.established = true,
            Op::Rst => peer.reset = true,
            Op::CreditRequest => {
                peer.advertised = peer.forwarded;
                self.send(ports, Op::CreditUpdate);
            }
            Op::Shutdown => {
                peer.shutdown |= header.flags;
                if peer.shutdown == SHUTDOWN_BOTH {
                    peer.reset = true;
                    self.send(ports, Op::Rst);
                }
            }
            Op::Rw => {
                peer.received.extend(payload);
                let hoarded = !peer.hoard || peer.received.len() <= buffer as usize;
                assert!(hoarded, "the host broke its credit");
                if peer.echo {
                    peer.to_send.extend(payload);
                }
                if !peer.hoard {
                    peer.forwarded = peer.forwarded.wrapping_add(payload.len() as u32);
                    let unknown = peer.forwarded.wrapping_sub(peer.advertised);
                    if unknown > buffer / 2 {
                        peer.advertised = peer.forwarded;
                        self.send(ports, Op::CreditUpdate);
                    }
                }
            }
            Op::CreditUpdate | Op::Request => {}
        }
    }

    fn push(&mut self, ports: Ports) -> bool {
        let mut busy = false;
        while self.can_transmit() {
            let Some(peer) = self.peers.get_mut(&ports) else {
                return busy;
            };
            let in_flight = peer.sent.wrapping_sub(peer.host_forwarded);
            let credit = peer.credit_limit.saturating_sub(in_flight) as usize;
            let count = peer.to_send.len().min(credit).min(0x1_0000);
            if count == 0 || peer.reset {
                return busy;
            }
            let payload: Vec<u8> = peer.to_send.drain(..count).collect();
            self.send_payload(ports, &payload);
            busy = true;
        }
        busy
    }
}

/// A guest's memory and everything it knows: the other half of a captured device state.
pub struct Memory {
    ram: Vec<u8>,
    rings: [DriverRing; 3],
    peers: BTreeMap<Ports, Peer>,
}

impl Guest {
    /// What a snapshot of the guest would hold.
    pub fn capture(&self) -> Memory {
        let mut ram = vec![0; RAM_BYTES as usize];
        self.memory.read_slice(&mut ram, GuestAddress(0)).unwrap();
        Memory {
            ram,
            rings: [&self.receive, &self.transmit, &self.event].map(Clone::clone),
            peers: self.peers.clone(),
        }
    }

    /// Puts it back into another guest, whose rings lie at the same places.
    pub fn restore_into_own_rings(&mut self, memory: &Memory) {
        let own = Arc::clone(&self.memory);
        self.restore(memory);
        for ring in [&mut self.receive, &mut self.transmit, &mut self.event] {
            ring.move_to(&own);
        }
    }

    /// Puts it back.
    pub fn restore(&mut self, memory: &Memory) {
        self.memory.write_slice(&memory.ram, GuestAddress(0)).unwrap();
        let [receive, transmit, event] = memory.rings.clone();
        (self.receive, self.transmit, self.event) = (receive, transmit, event);
        self.peers.clone_from(&memory.peers);
    }
}

impl Memory {
    /// True when the device used no buffer in between.
    pub fn same_used_rings(&self, other: &Self) -> bool {
        [0x3000, 0x6000, 0x9000]
            .into_iter()
            .all(|used: usize| self.ram[used..used + 0x1000] == other.ram[used..used + 0x1000])
    }
}

impl Drop for Guest {
    /// A machine that goes away closes its streams; so host threads of a failed test end.
    fn drop(&mut self) {
        self.host.close_all("the test is over");
    }
}

/// Bytes that differ at every position.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .take(length)
        .collect()
}
