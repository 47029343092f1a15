//! Connections of the socket device: well-formed packets from the guest in any order, and calls of
//! the host between them. However wild that gets, the tables agree with one another, memory is
//! bounded, no well-formed packet stops the device, and a guest that lets go frees everything.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmm::fuzzing::VsockDevice;
use vmm::{VsockHost, VsockListener, VsockStream};

use crate::rig::{BUFFERS, NOTIFY, Rig};
use crate::script::Script;

const CID: u64 = 3;
const SLOT: u64 = 0x1000;
const SENT: u64 = BUFFERS + 16 * SLOT;
const RAM_BYTES: u64 = SENT + 16 * SLOT;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const RESET: u16 = 3;
const PAYLOAD: u16 = 5;
const WRITE: u16 = 2;
/// First port of connections that the host opens.
const HOSTS_OWN: u32 = 1 << 30;
const MOST_EVENTS: usize = 150;

pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut world = World::new(script.byte() & 1 != 0);
    for _ in 0..MOST_EVENTS {
        if script.is_over() {
            break;
        }
        world.happen(&mut script);
        world.check();
    }
    world.end();
}

struct World {
    rig: Rig,
    host: VsockHost,
    listeners: Vec<VsockListener>,
    streams: Vec<VsockStream>,
    /// Chains taken back, for each of the two queues.
    taken: [u16; 2],
    sent: u16,
    calls: u32,
}

impl World {
    fn new(event_idx: bool) -> Self {
        let (device, host) = VsockDevice::new(CID);
        let mut rig = Rig::start(Arc::new(Mutex::new(device)), RAM_BYTES, &[16, 16, 8], event_idx);
        for slot in 0..16 {
            rig.descriptor(RECEIVE, slot, BUFFERS + SLOT * u64::from(slot), SLOT as u32, WRITE, 0);
            rig.publish(RECEIVE, slot);
        }
        rig.set(NOTIFY, RECEIVE as u32);
        let listeners = [1, 2].map(|port| host.listen(port).unwrap()).into();
        Self { rig, host, listeners, streams: Vec::new(), taken: [0; 2], sent: 0, calls: 0 }
    }

    fn happen(&mut self, script: &mut Script<'_>) {
        match script.byte() % 16 {
            0..=6 => self.packet(script),
            7 => {
                self.receive();
            }
            8 => {
                for listener in &self.listeners {
                    if let Ok(stream) = listener.accept(Some(Duration::ZERO)) {
                        self.streams.push(stream);
                    }
                }
            }
            9 => {
                self.calls += 1;
                self.streams.extend(self.host.connect(6, Duration::ZERO));
            }
            10 => {
                let count = usize::from(script.half());
                if let Some(stream) = self.some_stream(script) {
                    let _ = stream.read(&mut vec![0; count]);
                }
            }
            11 => {
                let count = usize::from(script.half());
                if let Some(stream) = self.some_stream(script) {
                    let _ = stream.write(&vec![0xa5; count]);
                }
            }
            12 => {
                let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both][script.below(3)];
                if let Some(stream) = self.some_stream(script) {
                    let _ = stream.shutdown(how);
                }
            }
            13 => {
                let at = script.below(8);
                if at < self.streams.len() {
                    self.streams.remove(at);
                }
            }
            14 => {
                let state = self.host.capture();
                self.host.restore(&state).unwrap();
                assert_eq!(self.host.capture(), state);
            }
            _ => self.host.send_transport_reset(),
        }
        for stream in &self.streams {
            stream.set_read_timeout(Some(Duration::ZERO));
            stream.set_write_timeout(Some(Duration::ZERO));
        }
    }

    fn some_stream(&mut self, script: &mut Script<'_>) -> Option<&mut VsockStream> {
        let at = script.below(self.streams.len());
        self.streams.get_mut(at)
    }

    fn packet(&mut self, script: &mut Script<'_>) {
        // Few ports, so that packets meet connections.
        let guest_port = 5 + script.below(3) as u32;
        let host_port = match script.byte() % 8 {
            port @ 0..=4 => 1 + u32::from(port % 3),
            _ => HOSTS_OWN + script.below(4) as u32,
        };
        let oddity = script.byte();
        let op = match script.byte() % 12 {
            op @ 1..=7 => op.into(),
            8 => script.half(),
            _ => PAYLOAD,
        };
        let length = if op == PAYLOAD { usize::from(script.half()) % 3000 } else { 0 };
        let (cid, to, kind) = match oddity {
            250 => (script.long(), 2, 1),
            251 => (CID, script.long(), 1),
            252 => (CID, 2, script.half()),
            _ => (CID, 2, 1),
        };
        let flags = script.byte() % 5;
        let (credit, forwarded) = match oddity % 4 {
            3 => (script.word(), script.word()),
            _ => (VsockHost::BUFFER_BYTES as u32, 0),
        };
        let header = Header { cid, to, guest_port, host_port, kind, op, flags, credit, forwarded };
        self.send(&header, length);
    }

    fn send(&mut self, header: &Header, length: usize) {
        let used = self.rig.used(TRANSMIT);
        if self.sent.wrapping_sub(used) >= 16 {
            return;
        }
        let slot = self.sent % 16;
        let at = SENT + SLOT * u64::from(slot);
        let mut bytes = header.bytes(length as u32);
        bytes.resize(bytes.len() + length, 0x5a);
        self.rig.put(at, &bytes);
        self.rig.descriptor(TRANSMIT, slot, at, bytes.len() as u32, 0, 0);
        self.rig.publish(TRANSMIT, slot);
        self.sent = self.sent.wrapping_add(1);
        self.rig.set(NOTIFY, TRANSMIT as u32);
    }

    /// Takes what has arrived and gives the buffers back. False when nothing has.
    fn receive(&mut self) -> bool {
        let used = self.rig.used(RECEIVE);
        let mut some = false;
        while self.taken[RECEIVE] != used {
            let head = self.rig.used_head(RECEIVE, self.taken[RECEIVE]);
            assert!(head < 16, "a buffer that the driver did not give");
            self.rig.publish(RECEIVE, head);
            self.taken[RECEIVE] = self.taken[RECEIVE].wrapping_add(1);
            some = true;
        }
        self.rig.set(NOTIFY, RECEIVE as u32);
        some
    }

    fn check(&self) {
        assert!(self.host.is_sound(CID), "{:?}", self.host.capture());
        let (connections, bytes) = self.host.size();
        assert!(connections <= VsockHost::MAX_CONNECTIONS);
        assert!(bytes <= connections * 2 * VsockHost::BUFFER_BYTES);
        assert_eq!(self.rig.faults(), 0, "no well-formed packet stops the device");
    }

    /// Host and guest let go of everything.
    fn end(mut self) {
        self.streams.clear();
        self.listeners.clear();
        while self.receive() {}
        for guest_port in 5..8 {
            for host_port in (1..4).chain(HOSTS_OWN..HOSTS_OWN + self.calls) {
                self.receive();
                self.send(&Header::reset(guest_port, host_port), 0);
            }
        }
        self.check();
        assert_eq!(self.host.size(), (0, 0));
        self.rig.end();
    }
}

struct Header {
    cid: u64,
    to: u64,
    guest_port: u32,
    host_port: u32,
    kind: u16,
    op: u16,
    flags: u8,
    credit: u32,
    forwarded: u32,
}

impl Header {
    fn reset(guest_port: u32, host_port: u32) -> Self {
        let (cid, to, kind, op, flags, credit, forwarded) = (CID, 2, 1, RESET, 0, 0, 0);
        Self { cid, to, guest_port, host_port, kind, op, flags, credit, forwarded }
    }

    /// `struct virtio_vsock_hdr` (virtio 1.2, section 5.10.6).
    fn bytes(&self, length: u32) -> Vec<u8> {
        let fields: [&[u8]; 10] = [
            &self.cid.to_le_bytes(),
            &self.to.to_le_bytes(),
            &self.guest_port.to_le_bytes(),
            &self.host_port.to_le_bytes(),
            &length.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &u32::from(self.flags).to_le_bytes(),
            &self.credit.to_le_bytes(),
            &self.forwarded.to_le_bytes(),
        ];
        fields.concat()
    }
}
