//! Data in both directions.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::guest::{Behaviour, Guest, pattern};
use super::{GUEST_PORT, HOST_PORT, LIMIT};
use crate::devices::vsock::connection::BUFFER_BYTES;
use crate::devices::vsock::connection::Ports;
use crate::devices::vsock::packet::Op;
use crate::devices::vsock::queue::RECEIVE;
use crate::devices::vsock::{VsockDevice, VsockHost, VsockStream};

const MIB: usize = 1 << 20;
pub const PORTS: Ports = Ports { guest: 7000, host: HOST_PORT };

struct StopOnPanic(VsockHost);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close_all("the test has failed");
        }
    }
}

/// Runs `work` on a host thread while the guest lives.
pub fn with_host<R: Send>(
    guest: &mut Guest,
    work: impl FnOnce(&VsockHost) -> R + Send,
    mut alongside: impl FnMut(&mut Guest),
) -> R {
    let host = guest.host.clone();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // A failing test must not wait for a host that waits for the guest.
        let _stop = StopOnPanic(guest.host.clone());
        let thread = scope.spawn(|| {
            let result = work(&host);
            done.store(true, Ordering::SeqCst);
            result
        });
        guest.run_until(|guest| {
            alongside(guest);
            done.load(Ordering::SeqCst) || thread.is_finished()
        });
        thread.join().unwrap()
    })
}

/// A connection the host opened.
pub fn connected(guest: &mut Guest) -> (VsockStream, Ports) {
    guest.listening.insert(GUEST_PORT);
    let stream = with_host(guest, |host| host.connect(GUEST_PORT, LIMIT).unwrap(), |_| {});
    let ports = Ports { guest: stream.guest_port(), host: stream.host_port() };
    (stream, ports)
}

/// A connection the guest opened.
pub fn accepted(guest: &mut Guest) -> VsockStream {
    let listener = guest.host.listen(HOST_PORT).unwrap();
    assert!(guest.connect(PORTS));
    listener.accept(Some(LIMIT)).unwrap()
}

#[test]
fn the_host_connects_and_the_guest_echoes() {
    let mut guest = Guest::start(Behaviour::default());
    let (mut stream, ports) = connected(&mut guest);
    assert_eq!(ports.guest, GUEST_PORT);
    guest.peers.get_mut(&ports).unwrap().echo = true;
    let answer = with_host(
        &mut guest,
        |_| {
            stream.write_all(b"hello, guest").unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            answer
        },
        |_| {},
    );
    assert_eq!(&answer, b"hello, guest");
}

#[test]
fn the_guest_connects_and_the_host_echoes() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    assert_eq!((stream.guest_port(), stream.host_port()), (7000, HOST_PORT));
    guest.send_payload(PORTS, b"hello, host");
    let mut data = [0; 64];
    let count = stream.read(&mut data).unwrap();
    assert_eq!(&data[..count], b"hello, host");
    stream.write_all(&data[..count]).unwrap();
    guest.run_until(|guest| guest.peers[&PORTS].received == b"hello, host");
}

#[test]
fn the_host_can_connect_before_the_guest_has_a_driver() {
    let (device, host) = VsockDevice::new(super::guest::CID);
    let calling = host.clone();
    let caller = thread::spawn(move || calling.connect(GUEST_PORT, LIMIT).map(|s| s.guest_port()));
    let mut guest = Guest::start_with(Behaviour::default(), device, host);
    guest.listening.insert(GUEST_PORT);
    guest.run_until(|_| caller.is_finished());
    assert_eq!(caller.join().unwrap().unwrap(), GUEST_PORT);
}

fn transfer(behaviour: Behaviour) {
    let mut guest = Guest::start(behaviour);
    let (stream, ports) = connected(&mut guest);
    let down = pattern(MIB);
    let up: Vec<u8> = down.iter().rev().copied().collect();
    guest.peers.get_mut(&ports).unwrap().to_send.extend(&up);
    let got = with_host(
        &mut guest,
        |_| {
            thread::scope(|scope| {
                scope.spawn(|| (&stream).write_all(&down).unwrap());
                let mut got = vec![0; MIB];
                (&stream).read_exact(&mut got).unwrap();
                got
            })
        },
        |_| {},
    );
    assert!(got == up);
    guest.run_until(|guest| guest.peers[&ports].received.len() == MIB);
    assert!(guest.peers[&ports].received == down);
    assert_eq!(guest.host.counters().credit_violations, 0);
}

#[test]
fn a_mebibyte_each_way_at_once() {
    transfer(Behaviour::default());
}

#[test]
fn a_mebibyte_each_way_without_event_idx() {
    transfer(Behaviour { event_idx: false, ..Behaviour::default() });
}

#[test]
fn a_mebibyte_each_way_through_small_buffers_and_little_credit() {
    for event_idx in [false, true] {
        transfer(Behaviour { event_idx, receive_bytes: 200, receive_buffers: 3, buffer: 1000 });
    }
}

#[test]
fn the_host_stops_at_the_credit_of_the_guest_and_asks_once() {
    let mut guest = Guest::start(Behaviour { buffer: 10_000, ..Behaviour::default() });
    let (mut stream, ports) = connected(&mut guest);
    guest.peers.get_mut(&ports).unwrap().hoard = true;
    let data = pattern(30_000);
    stream.write_all(&data).unwrap();
    for _ in 0..10 {
        guest.step();
    }
    assert_eq!(guest.peers[&ports].received, &data[..10_000]);
    let asked = |guest: &Guest| {
        let ask = |header: &&crate::devices::vsock::packet::PacketHeader| {
            header.op == Op::CreditRequest as u16
        };
        guest.log.iter().filter(ask).count()
    };
    assert_eq!(asked(&guest), 1);
    // The guest's program reads at last.
    let peer = guest.peers.get_mut(&ports).unwrap();
    peer.hoard = false;
    peer.forwarded = 10_000;
    guest.send(ports, Op::CreditUpdate);
    guest.run_until(|guest| guest.peers[&ports].received == data);
}

#[test]
fn a_writer_waits_when_its_buffer_is_full() {
    let mut guest = Guest::start(Behaviour { buffer: 0, ..Behaviour::default() });
    let (mut stream, _) = connected(&mut guest);
    stream.set_write_timeout(Some(std::time::Duration::from_millis(1)));
    let buffer = BUFFER_BYTES as usize;
    assert_eq!(stream.write(&vec![1; 2 * buffer]).unwrap(), buffer);
    let error = stream.write(&[1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn the_reader_gives_credit_back() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    guest.peers.get_mut(&PORTS).unwrap().to_send = vec![7; 2 * BUFFER_BYTES as usize].into();
    for _ in 0..10 {
        guest.step();
    }
    // No more than the buffer was taken, and the guest was told of no more.
    assert_eq!(guest.peers[&PORTS].sent, BUFFER_BYTES);
    let mut data = vec![0; BUFFER_BYTES as usize / 4];
    stream.read_exact(&mut data).unwrap();
    guest.run_until(|guest| guest.peers[&PORTS].sent == BUFFER_BYTES + BUFFER_BYTES / 4);
}

#[test]
fn a_credit_request_is_answered() {
    let mut guest = Guest::start(Behaviour::default());
    let _stream = accepted(&mut guest);
    guest.send(PORTS, Op::CreditRequest);
    let packets = guest.receive();
    let ops: Vec<u16> = packets.iter().map(|(header, _)| header.op).collect();
    assert_eq!(ops, [Op::CreditUpdate as u16]);
    assert_eq!(packets[0].0.buf_alloc, BUFFER_BYTES);
}

#[test]
fn packets_wait_for_late_buffers_and_cost_nothing_meanwhile() {
    for event_idx in [false, true] {
        let mut guest = Guest::start(Behaviour { event_idx, ..Behaviour::default() });
        let mut stream = accepted(&mut guest);
        // Eat every buffer: the guest takes packets without giving buffers back.
        let mut eaten = 0;
        while eaten < 64 {
            stream.write_all(b"x").unwrap();
            eaten += guest.collect().len();
        }
        let interrupts = guest.interrupts();
        stream.write_all(&pattern(5000)).unwrap();
        assert!(guest.collect().is_empty());
        assert_eq!(guest.interrupts(), interrupts);
        let kicks = guest.kicks;
        guest.post_receive(4096);
        guest.kick(RECEIVE);
        assert_eq!(guest.kicks, kicks + 1, "the device must ask for the buffer");
        assert_eq!(guest.collect()[0].1, &pattern(5000)[..4096 - 44]);
        guest.post_receive(4096);
        guest.kick(RECEIVE);
        assert_eq!(guest.collect()[0].1, &pattern(5000)[4096 - 44..]);
    }
}

#[test]
fn counters_that_wrap_lose_nothing() {
    let mut guest = Guest::start(Behaviour::default());
    let (stream, ports) = connected(&mut guest);
    let near = u32::MAX - 100_000;
    let mut state = guest.host.capture();
    let id = state.muxer.find(ports).unwrap();
    let connection = state.muxer.get_mut(id).unwrap();
    connection.forwarded = near;
    connection.advertised = near;
    connection.sent = near;
    connection.peer_forwarded = near;
    guest.host.restore(&state).unwrap();
    let peer = guest.peers.get_mut(&ports).unwrap();
    peer.sent = near;
    peer.host_forwarded = near;
    peer.forwarded = near;
    peer.advertised = near;
    let up = pattern(MIB);
    peer.to_send.extend(&up);
    let got = with_host(
        &mut guest,
        |_| {
            (&stream).write_all(&up[..BUFFER_BYTES as usize]).unwrap();
            let mut got = vec![0; MIB];
            (&stream).read_exact(&mut got).unwrap();
            got
        },
        |_| {},
    );
    assert!(got == up);
    guest.run_until(|guest| guest.peers[&ports].received.len() == BUFFER_BYTES as usize);
    assert!(guest.peers[&ports].sent < near);
}

#[test]
fn header_and_payload_can_be_cut_anywhere() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    let payload = pattern(100);
    for sizes in [&[][..], &[1], &[43], &[44, 1], &[45], &[10, 20, 30], &[0, 44, 0], &[143]] {
        let header =
            crate::devices::vsock::packet::PacketHeader { len: 100, ..guest.header(PORTS, Op::Rw) };
        let bytes = [&header.to_bytes()[..], &payload].concat();
        guest.transmit_bytes(&bytes, sizes);
        guest.kick(crate::devices::vsock::queue::TRANSMIT);
        let mut got = [0; 100];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got.as_slice(), payload, "{sizes:?}");
    }
}
