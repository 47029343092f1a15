//! Capture and restore of both halves.

use std::io::{ErrorKind, Read, Write};

use super::guest::{Behaviour, Guest, pattern};
use super::streams::{PORTS, accepted, connected, with_host};
use super::{GUEST_PORT, HOST_PORT, LIMIT};
use crate::devices::virtio::VirtioDevice;
use crate::devices::vsock::connection::Ports;
use crate::devices::vsock::packet::SHUTDOWN_BOTH;
use crate::devices::vsock::{VsockDevice, VsockError};

#[test]
fn a_live_connection_goes_back_and_goes_on() {
    for event_idx in [false, true] {
        let mut guest = Guest::start(Behaviour { event_idx, ..Behaviour::default() });
        let (mut stream, ports) = connected(&mut guest);
        guest.peers.get_mut(&ports).unwrap().echo = true;
        let mut echo = |guest: &mut Guest, data: &[u8]| {
            with_host(
                guest,
                |_| {
                    stream.write_all(data).unwrap();
                    let mut answer = vec![0; data.len()];
                    stream.read_exact(&mut answer).unwrap();
                    answer
                },
                |_| {},
            )
        };
        assert_eq!(echo(&mut guest, b"before"), b"before");
        guest.host.quiesce();
        let golden = guest.host.capture();
        let memory = guest.capture();
        for cycle in 0..5_usize {
            guest.host.resume();
            let data = pattern(1000 + cycle * 100_000);
            assert_eq!(echo(&mut guest, &data), data);
            assert_ne!(guest.host.capture(), golden);
            guest.host.quiesce();
            guest.host.restore(&golden).unwrap();
            guest.restore(&memory);
            assert_eq!(guest.host.capture(), golden);
        }
    }
}

#[test]
fn unread_and_unsent_bytes_come_back() {
    let mut guest = Guest::start(Behaviour { buffer: 100, ..Behaviour::default() });
    let mut stream = accepted(&mut guest);
    guest.peers.get_mut(&PORTS).unwrap().hoard = true;
    guest.send_payload(PORTS, b"unread");
    stream.write_all(&pattern(1000)).unwrap();
    guest.step();
    guest.host.quiesce();
    let golden = guest.host.capture();
    let memory = guest.capture();
    assert_eq!(golden.muxer.buffered(), 6 + 900);
    guest.host.resume();
    assert_eq!(stream.read(&mut [0; 64]).unwrap(), 6);
    guest.send_shutdown(PORTS, SHUTDOWN_BOTH);
    guest.run_until(|guest| guest.peers[&PORTS].reset);
    guest.host.quiesce();
    guest.host.restore(&golden).unwrap();
    guest.restore(&memory);
    assert_eq!(guest.host.capture(), golden);
    guest.host.resume();
    let mut data = [0; 6];
    stream.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"unread");
    let peer = guest.peers.get_mut(&PORTS).unwrap();
    peer.hoard = false;
    peer.forwarded = peer.received.len() as u32;
    guest.send(PORTS, crate::devices::vsock::packet::Op::CreditUpdate);
    guest.run_until(|guest| guest.peers[&PORTS].received == pattern(1000));
}

#[test]
fn a_stream_the_restored_state_does_not_know_fails_and_can_never_come_alive() {
    let mut guest = Guest::start(Behaviour::default());
    guest.host.quiesce();
    let golden = guest.host.capture();
    let memory = guest.capture();
    guest.host.resume();
    let (mut old, old_ports) = connected(&mut guest);
    guest.host.quiesce();
    guest.host.restore(&golden).unwrap();
    guest.restore(&memory);
    guest.host.resume();
    let gone = |error: std::io::Error| {
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<VsockError>());
        assert_eq!(inner, Some(&VsockError::Gone));
    };
    gone(old.read(&mut [0; 8]).unwrap_err());
    // The same ports again, as the port counter went back too; still not the same connection.
    let (mut new, new_ports) = connected(&mut guest);
    assert_eq!(old_ports, new_ports);
    gone(old.write(b"x").unwrap_err());
    drop(old);
    new.write_all(b"alive").unwrap();
    guest.run_until(|guest| guest.peers[&new_ports].received == b"alive");
}

#[test]
fn a_reader_is_told_that_its_connection_went_away() {
    let mut guest = Guest::start(Behaviour::default());
    let golden = guest.host.capture();
    let (mut stream, _) = connected(&mut guest);
    let reader = std::thread::spawn(move || stream.read(&mut [0; 8]).unwrap_err().kind());
    std::thread::sleep(std::time::Duration::from_millis(5));
    guest.host.quiesce();
    guest.host.restore(&golden).unwrap();
    assert_eq!(reader.join().unwrap(), ErrorKind::NotConnected);
}

#[test]
fn a_connection_whose_stream_was_dropped_can_be_taken_up_again() {
    let mut guest = Guest::start(Behaviour::default());
    let (stream, ports) = connected(&mut guest);
    guest.host.quiesce();
    let golden = guest.host.capture();
    let memory = guest.capture();
    guest.host.resume();
    drop(stream);
    guest.run_until(|guest| guest.peers[&ports].reset);
    let lost = guest.host.reattach(ports.guest, ports.host).unwrap_err();
    assert_eq!(lost, VsockError::Gone);
    guest.host.quiesce();
    guest.host.restore(&golden).unwrap();
    guest.restore(&memory);
    guest.host.resume();
    let mut again = guest.host.reattach(ports.guest, ports.host).unwrap();
    again.write_all(b"again").unwrap();
    guest.run_until(|guest| guest.peers[&ports].received == b"again");
}

#[test]
fn another_device_can_go_on_from_a_state() {
    let mut guest = Guest::start(Behaviour::default());
    let (_stream, ports) = connected(&mut guest);
    guest.host.quiesce();
    let golden = guest.host.capture();
    let memory = guest.capture();
    let mut fork = Guest::start(Behaviour::default());
    fork.host.quiesce();
    fork.host.restore(&golden).unwrap();
    fork.restore_into_own_rings(&memory);
    fork.host.resume();
    assert_eq!(fork.host.capture(), golden);
    assert_eq!(fork.device.queue_states(), golden.queues.unwrap());
    let mut stream = fork.host.reattach(ports.guest, ports.host).unwrap();
    stream.write_all(b"fork").unwrap();
    fork.run_until(|guest| guest.peers[&ports].received == b"fork");
    // Numbers of the state are not given again.
    let (other, _) = connected(&mut fork);
    assert_ne!(other.id(), stream.id());
}

#[test]
fn unaccepted_connections_come_back_if_their_port_is_still_listened_on() {
    let mut guest = Guest::start(Behaviour::default());
    let listener = guest.host.listen(HOST_PORT).unwrap();
    let kept = Ports { guest: 1, host: HOST_PORT };
    let lost = Ports { guest: 2, host: 9 };
    let other = guest.host.listen(9).unwrap();
    assert!(guest.connect(kept) && guest.connect(lost));
    guest.host.quiesce();
    let golden = guest.host.capture();
    let memory = guest.capture();
    guest.host.resume();
    drop(listener.accept(Some(LIMIT)).unwrap());
    drop(other);
    guest.run_until(|guest| guest.peers.values().all(|peer| peer.reset));
    guest.host.quiesce();
    guest.host.restore(&golden).unwrap();
    guest.restore(&memory);
    guest.host.resume();
    assert_eq!(listener.accept(Some(LIMIT)).unwrap().guest_port(), 1);
    guest.run_until(|guest| guest.peers[&lost].reset);
}

#[test]
fn while_quiesced_no_call_touches_the_guest() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    guest.host.quiesce();
    let before = guest.capture();
    let golden = guest.host.capture();
    stream.write_all(b"later").unwrap();
    let nobody = guest.host.connect(GUEST_PORT, std::time::Duration::from_millis(1));
    assert!(nobody.is_err());
    guest.send_payload(PORTS, b"x");
    assert!(guest.receive.take_used().is_none());
    assert_eq!(guest.host.capture().queues, golden.queues);
    assert!(before.same_used_rings(&guest.capture()));
    guest.host.resume();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 1);
    guest.run_until(|guest| guest.peers[&PORTS].received == b"later");
}

#[test]
fn states_only_fit_devices_in_the_same_phase() {
    let mut guest = Guest::start(Behaviour::default());
    let golden = guest.host.capture();
    let (_, idle) = VsockDevice::new(super::guest::CID);
    assert_eq!(idle.restore(&golden).unwrap_err(), VsockError::NotActive);
    let mut broken = golden.clone();
    broken.queues.as_mut().unwrap()[0].size = 3;
    let refused = guest.host.restore(&broken).unwrap_err();
    assert_eq!(refused, VsockError::BadState);
    assert_eq!(guest.host.capture(), golden);
    accepted(&mut guest);
}

/// Half of a message is written when the machine goes back: the other half must not follow it into the
/// restored connection.
#[test]
fn a_write_that_straddles_a_reset_ends() {
    let mut guest = Guest::start(Behaviour::default());
    let (stream, ports) = connected(&mut guest);
    guest.peers.get_mut(&ports).unwrap().hoard = true;
    guest.step();
    guest.host.quiesce();
    let golden = guest.host.capture();
    let memory = guest.capture();
    guest.host.resume();
    let message = pattern(8 << 20);
    // A write that waits for room.
    let waiting = {
        let stream = stream.try_clone().unwrap();
        let message = message.clone();
        std::thread::spawn(move || (&stream).write_all(&message).unwrap_err().kind())
    };
    // What is left of one that did not wait.
    let mut short = &stream;
    while guest.host.size().1 == 0 {
        std::thread::yield_now();
    }
    guest.host.quiesce();
    guest.host.restore(&golden).unwrap();
    guest.restore(&memory);
    guest.host.resume();
    assert_eq!(waiting.join().unwrap(), ErrorKind::NotConnected);
    assert_eq!(guest.host.size(), (1, 0), "nothing of the message is in the restored connection");
    // A caller that stops in the middle is told once, and goes on with another message.
    let count = short.write(&message).unwrap();
    assert!((1..message.len()).contains(&count), "{count}");
    guest.host.quiesce();
    guest.host.restore(&golden).unwrap();
    guest.host.resume();
    assert_eq!(short.write(&message[count..]).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(guest.host.size(), (1, 0));
    assert_eq!(short.write(b"next").unwrap(), 4);
}
