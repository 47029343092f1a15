//! How connections end.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use super::guest::{Behaviour, Guest, pattern};
use super::streams::{PORTS, accepted, connected, with_host};
use super::{GUEST_PORT, HOST_PORT, LIMIT};
use crate::devices::vsock::VsockError;
use crate::devices::vsock::connection::Ports;
use crate::devices::vsock::packet::{Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn the_guest_may_stop_sending_and_go_on_receiving() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    guest.send_payload(PORTS, b"last");
    guest.send_shutdown(PORTS, SHUTDOWN_SEND);
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    assert_eq!(data, b"last");
    stream.write_all(b"still here").unwrap();
    guest.run_until(|guest| guest.peers[&PORTS].received == b"still here");
}

#[test]
fn the_guest_may_stop_receiving() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    guest.send_shutdown(PORTS, SHUTDOWN_RECEIVE);
    assert_eq!(kind(stream.write(b"x")), Some(ErrorKind::BrokenPipe));
    guest.send_payload(PORTS, b"x");
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 1);
}

#[test]
fn the_host_may_stop_sending_after_its_last_byte() {
    let mut guest = Guest::start(Behaviour { receive_bytes: 100, ..Behaviour::default() });
    let mut stream = accepted(&mut guest);
    stream.write_all(&pattern(50_000)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(kind(stream.write(b"x")), Some(ErrorKind::BrokenPipe));
    guest.run_until(|guest| guest.peers[&PORTS].shutdown != 0);
    assert_eq!(guest.peers[&PORTS].received, pattern(50_000));
    assert_eq!(guest.peers[&PORTS].shutdown, SHUTDOWN_SEND);
    guest.send_payload(PORTS, b"answer");
    let mut data = [0; 6];
    stream.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"answer");
}

#[test]
fn without_credit_the_end_waits_for_the_data_before_it() {
    let mut guest = Guest::start(Behaviour { buffer: 100, ..Behaviour::default() });
    let mut stream = accepted(&mut guest);
    guest.peers.get_mut(&PORTS).unwrap().hoard = true;
    stream.write_all(&pattern(150)).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    guest.run_until(|guest| guest.peers[&PORTS].shutdown != 0);
    assert_eq!(guest.peers[&PORTS].shutdown, SHUTDOWN_RECEIVE);
    let peer = guest.peers.get_mut(&PORTS).unwrap();
    peer.forwarded = 100;
    peer.hoard = false;
    guest.send(PORTS, Op::CreditUpdate);
    guest.run_until(|guest| guest.peers[&PORTS].shutdown == SHUTDOWN_BOTH);
    assert_eq!(guest.peers[&PORTS].received, pattern(150));
}

#[test]
fn what_arrives_after_the_host_stopped_receiving_is_dropped_but_credited() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    stream.shutdown(Shutdown::Read).unwrap();
    let peer = guest.peers.get_mut(&PORTS).unwrap();
    peer.to_send.extend(pattern(1 << 20));
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    guest.run_until(|guest| guest.peers[&PORTS].to_send.is_empty());
    assert_eq!(guest.peers[&PORTS].shutdown, SHUTDOWN_RECEIVE);
}

#[test]
fn an_orderly_end_by_the_guest_keeps_its_last_bytes() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    guest.send_payload(PORTS, b"bye");
    guest.send_shutdown(PORTS, SHUTDOWN_BOTH);
    // The guest can forget the connection at once, and use its ports again.
    guest.run_until(|guest| guest.peers[&PORTS].reset);
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    assert_eq!(data, b"bye");
    assert_eq!(kind(stream.write(b"x")), Some(ErrorKind::BrokenPipe));
}

#[test]
fn a_connection_closed_before_it_was_accepted_still_delivers() {
    let mut guest = Guest::start(Behaviour::default());
    let listener = guest.host.listen(HOST_PORT).unwrap();
    for round in 0..3_u8 {
        assert!(guest.connect(PORTS));
        guest.send_payload(PORTS, &[round; 3]);
        guest.send_shutdown(PORTS, SHUTDOWN_BOTH);
        guest.run_until(|guest| guest.peers[&PORTS].reset);
    }
    for round in 0..3 {
        let mut data = Vec::new();
        let mut stream = listener.accept(Some(LIMIT)).unwrap();
        stream.read_to_end(&mut data).unwrap();
        assert_eq!(data, [round; 3]);
    }
}

#[test]
fn a_reset_by_the_guest_is_an_error_after_the_data() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    guest.send_payload(PORTS, b"x");
    guest.send(PORTS, Op::Rst);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 1);
    assert_eq!(kind(stream.read(&mut [0; 8])), Some(ErrorKind::ConnectionReset));
    assert_eq!(kind(stream.write(b"x")), Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_port_nobody_listens_on_refuses_both_ways() {
    let mut guest = Guest::start(Behaviour::default());
    assert!(!guest.connect(PORTS));
    assert_eq!(guest.host.counters().refused_no_listener, 1);
    let error = with_host(&mut guest, |host| host.connect(GUEST_PORT, LIMIT).unwrap_err(), |_| {});
    assert_eq!(error, VsockError::Refused(GUEST_PORT));
    let kind = std::io::Error::from(error).kind();
    assert_eq!(kind, ErrorKind::ConnectionRefused);
}

#[test]
fn dropping_a_stream_delivers_the_rest_then_ends_it() {
    let mut guest = Guest::start(Behaviour { receive_bytes: 64, ..Behaviour::default() });
    let (mut stream, ports) = connected(&mut guest);
    let clone = stream.try_clone().unwrap();
    stream.write_all(&pattern(20_000)).unwrap();
    drop(stream);
    guest.step();
    assert_eq!(guest.peers[&ports].shutdown, 0, "a clone is still alive");
    drop(clone);
    guest.run_until(|guest| guest.peers[&ports].reset);
    assert_eq!(guest.peers[&ports].received, pattern(20_000));
    assert_eq!(guest.peers[&ports].shutdown, SHUTDOWN_BOTH);
    assert_eq!(guest.host.capture().muxer.counts(), [0; 6]);
}

#[test]
fn a_lingering_connection_does_not_block_a_guest_that_still_sends() {
    let mut guest = Guest::start(Behaviour::default());
    let stream = accepted(&mut guest);
    drop(stream);
    // Not yet read by the guest: it goes on sending more than one buffer.
    for _ in 0..8 {
        guest.send_payload(PORTS, &pattern(60_000));
    }
    assert_eq!(guest.host.counters().credit_violations, 0);
    guest.run_until(|guest| guest.peers[&PORTS].reset);
    assert_eq!(guest.host.capture().muxer.counts(), [0; 6]);
}

#[test]
fn dropping_a_listener_resets_what_nobody_accepted_and_frees_the_port() {
    let mut guest = Guest::start(Behaviour::default());
    let listener = guest.host.listen(HOST_PORT).unwrap();
    let taken = guest.host.listen(HOST_PORT).unwrap_err();
    assert_eq!(taken, VsockError::PortInUse(HOST_PORT));
    assert!(guest.connect(PORTS));
    drop(listener);
    guest.run_until(|guest| guest.peers[&PORTS].reset);
    let other = Ports { guest: 7001, ..PORTS };
    assert!(!guest.connect(other));
    let _again = guest.host.listen(HOST_PORT).unwrap();
    assert!(guest.connect(other));
}

#[test]
fn a_driver_reset_ends_connections_and_keeps_listeners() {
    use crate::devices::virtio::VirtioDevice;
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    let _listener = guest.host.listen(9).unwrap();
    guest.device.reset();
    assert_eq!(kind(stream.read(&mut [0; 8])), Some(ErrorKind::ConnectionReset));
    assert_eq!(guest.host.listen(9).unwrap_err(), VsockError::PortInUse(9));
}
