//! Whatever the guest sends: no panic, bounded memory, bytes in order.

use std::io::{Read, Write};
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::guest::{Behaviour, CID, Guest, pattern};
use super::streams::{PORTS, accepted, with_host};
use crate::devices::vsock::connection::BUFFER_BYTES;
use crate::devices::vsock::connection::Ports;
use crate::devices::vsock::limits::MAX_CONNECTIONS;
use crate::devices::vsock::limits::MAX_PENDING_RST;
use crate::devices::vsock::packet::PacketHeader;
use crate::devices::vsock::queue::{RECEIVE, TRANSMIT};
use crate::devices::vsock::{VsockListener, VsockStream};

/// One thing that happens.
#[derive(Debug, Clone)]
enum Event {
    Packet(PacketHeader, usize),
    TakePackets(bool),
    Accept,
    Connect,
    Read(usize, usize),
    Write(usize, usize),
    Shutdown(usize, bool),
    Drop(usize),
    Restore,
}

fn header() -> impl Strategy<Value = PacketHeader> {
    let cid = prop_oneof![20 => Just(CID), 1 => any::<u64>()];
    let to = prop_oneof![20 => Just(2_u64), 1 => any::<u64>()];
    let kind = prop_oneof![20 => Just(1_u16), 1 => any::<u16>()];
    let op = prop_oneof![40 => 1..=7_u16, 20 => Just(5_u16), 1 => any::<u16>()];
    // Few ports, so that packets meet connections; the host's own calls start at 1 << 30.
    let host_port = prop_oneof![4 => 1..4_u32, 2 => (1 << 30)..(1 << 30) + 4_u32];
    let credit = prop_oneof![4 => Just(BUFFER_BYTES), 1 => any::<u32>()];
    let forwarded = prop_oneof![4 => Just(0_u32), 1 => any::<u32>()];
    ((cid, to, kind, op), (5..8_u32, host_port, 0..5_u32), (credit, forwarded)).prop_map(
        |((src_cid, dst_cid, kind, op), ports, credit)| PacketHeader {
            src_cid,
            dst_cid,
            src_port: ports.0,
            dst_port: ports.1,
            len: 0,
            kind,
            op,
            flags: ports.2,
            buf_alloc: credit.0,
            fwd_cnt: credit.1,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let length = prop_oneof![Just(0_usize), 1..100_usize, Just(0x1_0000_usize)];
    prop_oneof![
        10 => (header(), length.clone()).prop_map(|(header, length)| {
            let length = if header.op == 5 { length } else { 0 };
            Event::Packet(PacketHeader { len: length as u32, ..header }, length)
        }),
        3 => any::<bool>().prop_map(Event::TakePackets),
        2 => Just(Event::Accept),
        1 => Just(Event::Connect),
        2 => (0..4_usize, length.clone()).prop_map(|(at, length)| Event::Read(at, length)),
        2 => (0..4_usize, length).prop_map(|(at, length)| Event::Write(at, length)),
        1 => (0..4_usize, any::<bool>()).prop_map(|(at, both)| Event::Shutdown(at, both)),
        1 => (0..4_usize).prop_map(Event::Drop),
        1 => Just(Event::Restore),
    ]
}

struct World {
    guest: Guest,
    listeners: Vec<VsockListener>,
    streams: Vec<VsockStream>,
}

impl World {
    fn new() -> Self {
        let guest = Guest::start(Behaviour::default());
        let listeners = [1, 2].map(|port| guest.host.listen(port).unwrap()).into();
        Self { guest, listeners, streams: Vec::new() }
    }

    fn keep(&mut self, stream: VsockStream) {
        stream.set_read_timeout(Some(Duration::ZERO));
        stream.set_write_timeout(Some(Duration::ZERO));
        self.streams.push(stream);
    }

    fn happen(&mut self, event: &Event) {
        let guest = &mut self.guest;
        match *event {
            Event::Packet(header, length) => {
                if guest.can_transmit() {
                    guest.send_raw(header, &vec![0x5a; length]);
                }
            }
            Event::TakePackets(true) => drop(guest.receive()),
            Event::TakePackets(false) => drop(guest.collect()),
            Event::Accept => {
                for listener in 0..self.listeners.len() {
                    let next = self.listeners[listener].accept(Some(Duration::ZERO));
                    if let Ok(stream) = next {
                        self.keep(stream);
                    }
                }
            }
            Event::Connect => {
                let stream = guest.host.connect(6, Duration::ZERO);
                if let Ok(stream) = stream {
                    self.keep(stream);
                }
            }
            Event::Read(at, length) => {
                if let Some(stream) = self.streams.get_mut(at) {
                    let _ = stream.read(&mut vec![0; length]);
                }
            }
            Event::Write(at, length) => {
                if let Some(stream) = self.streams.get_mut(at) {
                    let _ = stream.write(&vec![0xa5; length]);
                }
            }
            Event::Shutdown(at, both) => {
                if let Some(stream) = self.streams.get(at) {
                    let how =
                        if both { std::net::Shutdown::Both } else { std::net::Shutdown::Write };
                    let _ = stream.shutdown(how);
                }
            }
            Event::Drop(at) => {
                if at < self.streams.len() {
                    self.streams.remove(at);
                }
            }
            Event::Restore => {
                let state = guest.host.capture();
                guest.host.restore(&state).unwrap();
                assert_eq!(guest.host.capture(), state);
            }
        }
    }

    fn check(&self) {
        let muxer = self.guest.host.capture().muxer;
        muxer.check();
        let [connections, _, _, _, _, answers] = muxer.counts();
        assert!(connections <= MAX_CONNECTIONS);
        assert!(answers <= MAX_PENDING_RST + MAX_CONNECTIONS);
        assert!(muxer.buffered() <= connections * 2 * BUFFER_BYTES as usize);
        assert!(!self.guest.latch.is_raised());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_packets_keep_the_device_sound(events in prop::collection::vec(event(), 1..150)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
            world.check();
        }
        // A guest that behaves from here on gets rid of everything.
        world.streams.clear();
        world.listeners.clear();
        while !world.guest.receive().is_empty() {}
        prop_assert!(world.guest.can_transmit());
        for guest in 5..8 {
            for host in (1..4).chain(1 << 30..(1 << 30) + 200) {
                let ports = Ports { guest, host };
                let reset = world.guest.header(ports, crate::devices::vsock::packet::Op::Rst);
                world.guest.send_raw(reset, &[]);
            }
        }
        world.check();
        prop_assert_eq!(world.guest.host.capture().muxer.counts(), [0; 6]);
    }

    #[test]
    fn any_ring_content_is_survived(
        words in prop::collection::vec(any::<u64>(), 64),
        near in prop::collection::vec((0..32_u64, 0..256_u32, 0..8_u16, 0..40_u16), 32),
        heads in prop::collection::vec(0..40_u16, 1..32),
        mix in any::<u32>(),
    ) {
        for ring in [RECEIVE, TRANSMIT] {
            let mut guest = Guest::start(Behaviour { receive_buffers: 0, ..Behaviour::default() });
            let target = if ring == RECEIVE { &mut guest.receive } else { &mut guest.transmit };
            for (index, &(page, length, flags, next)) in near.iter().enumerate() {
                let address = if mix >> index & 1 == 0 { page << 20 } else { words[index] };
                target.descriptor(index as u16, address, length, flags, next);
            }
            for head in &heads {
                target.publish(*head);
            }
            for (page, word) in words.iter().enumerate() {
                let (page, slot) = (page as u64 % 32, page as u64 / 32);
                let at = GuestAddress((page << 20) + 8 * slot);
                guest.memory.write_obj(*word, at).unwrap();
            }
            if ring == RECEIVE {
                guest.send(PORTS, crate::devices::vsock::packet::Op::Request);
            }
            guest.force_kick(ring);
            prop_assert!(guest.faults.lock().unwrap().len() <= 1);
        }
    }

    #[test]
    fn any_chunking_delivers_the_same_bytes(
        up in prop::collection::vec(1..3000_usize, 1..40),
        down in prop::collection::vec(1..3000_usize, 1..40),
        receive_bytes in 45..5000_u32,
        buffer in 1..5000_u32,
        event_idx in any::<bool>(),
        read_bytes in 1..3000_usize,
    ) {
        let mut guest = Guest::start(Behaviour { event_idx, receive_bytes, buffer, ..Behaviour::default() });
        let stream = accepted(&mut guest);
        let from_guest = pattern(up.iter().sum());
        let from_host = pattern(down.iter().sum());
        let mut sends = up.iter();
        let mut rest = from_guest.as_slice();
        let got = with_host(&mut guest, |_| {
            let mut rest = from_host.as_slice();
            for count in &down {
                let (now, later) = rest.split_at(*count);
                (&stream).write_all(now).unwrap();
                rest = later;
            }
            let mut got: Vec<u8> = Vec::new();
            let mut buffer = vec![0; read_bytes];
            while got.len() < from_guest.len() {
                let count = (&stream).read(&mut buffer).unwrap();
                got.extend(&buffer[..count]);
            }
            got
        }, |guest| {
            if let Some(count) = sends.next() {
                let (now, later) = rest.split_at(*count);
                guest.peers.get_mut(&PORTS).unwrap().to_send.extend(now);
                rest = later;
            }
        });
        prop_assert!(got == from_guest);
        guest.run_until(|guest| guest.peers[&PORTS].received.len() == from_host.len());
        prop_assert!(guest.peers[&PORTS].received == from_host);
    }
}
