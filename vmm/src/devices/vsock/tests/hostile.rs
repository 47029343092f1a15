//! Guests that mean harm: broken rings stop the device, broken packets are answered or dropped.

use std::io::{ErrorKind, Read, Write};

use vm_memory::{Bytes, GuestAddress};

use super::driver::{NEXT, Part, WRITE};
use super::guest::{Behaviour, CID, Guest, RAM_BYTES};
use super::streams::{PORTS, accepted, connected};
use super::{GUEST_PORT, LIMIT};
use crate::devices::virtio::{DeviceFault, VirtioDevice};
use crate::devices::vsock::connection::BUFFER_BYTES;
use crate::devices::vsock::connection::Ports;
use crate::devices::vsock::packet::{Op, PacketHeader, SHUTDOWN_SEND};
use crate::devices::vsock::queue::{RECEIVE, TRANSMIT};
use crate::devices::vsock::{VsockCounters, VsockError};

const BUFFER: u64 = 0xc0_0000;

fn guest() -> Guest {
    Guest::start(Behaviour::default())
}

/// The fault the device met, which must be the only one.
fn fault(guest: &Guest) -> DeviceFault {
    let faults = guest.faults.lock().unwrap();
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

fn assert_bad_chain(guest: &Guest, on: u16) {
    assert!(
        matches!(fault(guest), DeviceFault::BadChain { queue, .. } if queue == on),
        "{:?}",
        fault(guest)
    );
}

fn assert_broken_queue(guest: &Guest, on: u16) {
    assert!(
        matches!(fault(guest), DeviceFault::BrokenQueue { queue, .. } if queue == on),
        "{:?}",
        fault(guest)
    );
}

/// Publishes a transmit chain and notifies.
fn transmit(guest: &mut Guest, parts: &[(u64, u32, bool)]) {
    let parts: Vec<Part> = parts
        .iter()
        .map(|&(address, length, writable)| Part { address, length, writable })
        .collect();
    guest.transmit.add(&parts).unwrap();
    guest.kick(TRANSMIT);
}

#[test]
fn fewer_bytes_than_a_header_are_a_fault() {
    for length in [0, 1, 43] {
        let mut guest = guest();
        transmit(&mut guest, &[(BUFFER, length, false)]);
        assert_bad_chain(&guest, TRANSMIT);
    }
}

#[test]
fn a_payload_longer_than_its_chain_is_a_fault() {
    for (claimed, present) in [(1, 0), (101, 100), (u32::MAX, 100)] {
        let mut guest = guest();
        let _stream = accepted(&mut guest);
        let header = PacketHeader { len: claimed, ..guest.header(PORTS, Op::Rw) };
        guest.send_raw(header, &vec![0; present]);
        assert_bad_chain(&guest, TRANSMIT);
    }
}

#[test]
fn a_payload_may_end_where_memory_ends_but_not_after() {
    let mut guest = guest();
    let mut stream = accepted(&mut guest);
    let header = PacketHeader { len: 8, ..guest.header(PORTS, Op::Rw) };
    let end = RAM_BYTES - 8;
    guest.memory.write_slice(&header.to_bytes(), GuestAddress(BUFFER)).unwrap();
    guest.memory.write_slice(b"the end!", GuestAddress(end)).unwrap();
    transmit(&mut guest, &[(BUFFER, 44, false), (end, 8, false)]);
    let mut data = [0; 8];
    stream.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"the end!");
    transmit(&mut guest, &[(BUFFER, 44, false), (end + 1, 8, false)]);
    assert_bad_chain(&guest, TRANSMIT);
}

#[test]
fn descriptors_outside_memory_are_a_fault() {
    for (address, length) in
        [(RAM_BYTES, 44), (u64::MAX - 10, 44), (RAM_BYTES - 43, 44), (0, u32::MAX)]
    {
        let mut guest = guest();
        transmit(&mut guest, &[(address, length, false)]);
        assert_bad_chain(&guest, TRANSMIT);
    }
}

#[test]
fn buffers_of_the_wrong_direction_are_a_fault() {
    let mut transmitting = guest();
    transmit(&mut transmitting, &[(BUFFER, 44, false), (BUFFER, 44, true)]);
    assert_bad_chain(&transmitting, TRANSMIT);

    let mut receiving = Guest::start(Behaviour { receive_buffers: 0, ..Behaviour::default() });
    let part = Part { address: BUFFER, length: 4096, writable: false };
    receiving.receive.add(&[part]).unwrap();
    receiving.send(PORTS, Op::Request);
    assert_bad_chain(&receiving, RECEIVE);
}

#[test]
fn chains_that_do_not_end_are_a_fault() {
    for next in [0, 1, 127, 128, u16::MAX] {
        let mut guest = guest();
        guest.transmit.descriptor(0, BUFFER, 44, NEXT, 1);
        guest.transmit.descriptor(1, BUFFER, 0, NEXT, next);
        guest.transmit.descriptor(127, BUFFER, 0, NEXT, 0);
        guest.transmit.publish(0);
        guest.kick(TRANSMIT);
        assert_bad_chain(&guest, TRANSMIT);
    }
}

#[test]
fn indirect_tables_cannot_make_a_chain_longer_than_the_ring() {
    const INDIRECT: u16 = 4;
    let table = 0x20_0000;
    for (count, bytes) in [(129_u16, 129 * 16), (8, 17), (0, 0)] {
        let mut guest = guest();
        for index in 0..count {
            let flags = if index + 1 == count { 0 } else { NEXT };
            let mut raw = BUFFER.to_le_bytes().to_vec();
            raw.extend(1_u32.to_le_bytes());
            raw.extend(flags.to_le_bytes());
            raw.extend((index + 1).to_le_bytes());
            let at = GuestAddress(table + 16 * u64::from(index));
            guest.memory.write_slice(&raw, at).unwrap();
        }
        guest.transmit.descriptor(0, table, bytes, INDIRECT, 0);
        guest.transmit.publish(0);
        guest.kick(TRANSMIT);
        assert_bad_chain(&guest, TRANSMIT);
    }
}

#[test]
fn a_head_outside_the_table_is_a_fault() {
    let mut guest = guest();
    guest.transmit.publish(128);
    guest.kick(TRANSMIT);
    assert_broken_queue(&guest, TRANSMIT);
}

#[test]
fn a_ring_index_that_jumps_is_a_fault() {
    let mut guest = guest();
    guest.transmit.set_avail_index(129);
    guest.force_kick(TRANSMIT);
    assert_broken_queue(&guest, TRANSMIT);
}

#[test]
fn a_receive_buffer_without_room_for_payload_is_a_fault() {
    for length in [0, 43, 44] {
        let mut guest = Guest::start(Behaviour { receive_bytes: length, ..Behaviour::default() });
        guest.send(PORTS, Op::Request);
        assert_bad_chain(&guest, RECEIVE);
    }
}

#[test]
fn a_fault_met_by_a_host_call_is_reported_and_ends_every_stream() {
    let mut guest = Guest::start(Behaviour { receive_buffers: 1, ..Behaviour::default() });
    let listener = guest.host.listen(PORTS.host).unwrap();
    guest.send(PORTS, Op::Request);
    let mut stream = listener.accept(Some(LIMIT)).unwrap();
    let out = Part { address: RAM_BYTES, length: 4096, writable: true };
    guest.receive.add(&[out]).unwrap();
    let _ = stream.write(b"x");
    assert_bad_chain(&guest, RECEIVE);
    assert!(guest.latch.is_raised());
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert!(matches!(listener.accept(None), Err(VsockError::MachineStopped(_))));
}

#[test]
fn after_a_fault_nothing_is_taken_any_more() {
    let mut guest = guest();
    let _listener = guest.host.listen(PORTS.host);
    transmit(&mut guest, &[(BUFFER, 1, false)]);
    let before = guest.host.counters();
    guest.send(PORTS, Op::Request);
    // Even past the transport, which would not pass it on.
    guest.device.notify(TRANSMIT).unwrap();
    assert_eq!(guest.host.counters(), before);
    assert!(guest.collect().is_empty());
}

/// Sends one packet; returns the answers.
fn answers(guest: &mut Guest, header: PacketHeader, payload: &[u8]) -> Vec<PacketHeader> {
    guest.send_raw(header, payload);
    guest.receive().into_iter().map(|(h, _)| h).collect()
}

/// What is counted beside packets and bytes.
fn offences(guest: &Guest) -> VsockCounters {
    VsockCounters {
        packets_from_guest: 0,
        packets_to_guest: 0,
        bytes_from_guest: 0,
        bytes_to_guest: 0,
        ..guest.host.counters()
    }
}

#[test]
fn packets_for_another_cid_are_answered_in_its_name() {
    let mut guest = guest();
    let _listener = guest.host.listen(PORTS.host).unwrap();
    for cid in [0, 1, CID, 4, 1 << 32 | 2, u64::MAX] {
        let header = PacketHeader { dst_cid: cid, ..guest.header(PORTS, Op::Request) };
        assert_eq!(answers(&mut guest, header, &[]), [header.reset()]);
    }
    assert_eq!(
        offences(&guest),
        VsockCounters { wrong_destination: 6, ..VsockCounters::default() }
    );
}

#[test]
fn packets_in_the_name_of_another_cid_are_dropped() {
    let mut guest = guest();
    let _listener = guest.host.listen(PORTS.host).unwrap();
    for cid in [0, 2, 4, 1 << 32 | CID, u64::MAX] {
        let header = PacketHeader { src_cid: cid, ..guest.header(PORTS, Op::Request) };
        assert_eq!(answers(&mut guest, header, &[]), []);
    }
    assert_eq!(offences(&guest), VsockCounters { spoofed_source: 5, ..VsockCounters::default() });
}

#[test]
fn unknown_socket_types_are_reset_in_kind() {
    let mut guest = guest();
    let _listener = guest.host.listen(PORTS.host).unwrap();
    for kind in [0, 2, 3, u16::MAX] {
        let header = PacketHeader { kind, ..guest.header(PORTS, Op::Request) };
        let got = answers(&mut guest, header, &[]);
        assert_eq!(got, [header.reset()]);
        assert_eq!(got[0].kind, kind);
    }
    assert_eq!(offences(&guest).unknown_type, 4);
}

#[test]
fn unknown_operations_are_reset_with_or_without_a_connection() {
    let mut guest = guest();
    let mut stream = accepted(&mut guest);
    let header = PacketHeader { op: 99, ..guest.header(PORTS, Op::Rw) };
    for op in [0, 8, u16::MAX] {
        let elsewhere = PacketHeader { op, dst_port: 1, ..header };
        assert_eq!(answers(&mut guest, elsewhere, &[]), [elsewhere.reset()]);
    }
    assert_eq!(answers(&mut guest, header, &[]), [header.reset()]);
    assert_eq!(offences(&guest).unknown_operation, 4);
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn packets_for_no_connection_are_reset_but_resets_are_not() {
    let mut guest = guest();
    for op in [Op::Response, Op::Shutdown, Op::Rw, Op::CreditUpdate, Op::CreditRequest] {
        let header = guest.header(PORTS, op);
        assert_eq!(answers(&mut guest, header, &[]), [header.reset()]);
    }
    let reset = guest.header(PORTS, Op::Rst);
    assert_eq!(answers(&mut guest, reset, &[]), []);
    assert_eq!(offences(&guest).unknown_connection, 5);
}

#[test]
fn a_guest_that_overruns_its_credit_loses_that_connection_only() {
    let mut guest = guest();
    let listener = guest.host.listen(PORTS.host).unwrap();
    let other = Ports { guest: 7001, ..PORTS };
    assert!(guest.connect(PORTS) && guest.connect(other));
    let mut first = listener.accept(Some(LIMIT)).unwrap();
    let mut second = listener.accept(Some(LIMIT)).unwrap();
    for _ in 0..BUFFER_BYTES / (64 << 10) {
        guest.send_payload(PORTS, &vec![1; 64 << 10]);
    }
    assert_eq!(offences(&guest).credit_violations, 0);
    guest.send_payload(PORTS, &[2]);
    assert_eq!(offences(&guest).credit_violations, 1);
    guest.run_until(|guest| guest.peers[&PORTS].reset);
    let mut data = Vec::new();
    let error = first.read_to_end(&mut data).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(data, vec![1; BUFFER_BYTES as usize]);
    guest.send_payload(other, b"fine");
    assert_eq!(second.read(&mut [0; 8]).unwrap(), 4);
}

#[test]
fn packets_that_do_not_fit_the_state_reset_the_connection() {
    type Offence = fn(&mut Guest);
    let offences_of_an_open_connection: [Offence; 3] = [
        |guest| guest.send(PORTS, Op::Request),
        |guest| guest.send(PORTS, Op::Response),
        |guest| {
            guest.send_shutdown(PORTS, SHUTDOWN_SEND);
            guest.send_payload(PORTS, b"more");
        },
    ];
    for offend in offences_of_an_open_connection {
        let mut guest = guest();
        let mut stream = accepted(&mut guest);
        offend(&mut guest);
        assert_eq!(offences(&guest).protocol_violations, 1);
        guest.run_until(|guest| guest.peers[&PORTS].reset);
        let _ = stream.read(&mut [0; 8]);
        assert!(stream.write(b"x").is_err());
    }
}

#[test]
fn nothing_but_an_answer_is_taken_before_the_answer() {
    for op in [Op::Rw, Op::Shutdown, Op::CreditUpdate, Op::Request] {
        let mut guest = guest();
        let host = guest.host.clone();
        let caller = std::thread::spawn(move || host.connect(GUEST_PORT, LIMIT));
        let ports = loop {
            if let Some((header, _)) = guest.receive().first() {
                break Ports { guest: GUEST_PORT, host: header.src_port };
            }
        };
        guest.send(ports, op);
        let refused = caller.join().unwrap().unwrap_err();
        assert_eq!(refused, VsockError::Refused(GUEST_PORT));
        assert_eq!(offences(&guest).protocol_violations, 1);
    }
}

#[test]
fn a_guest_that_claims_to_have_read_more_than_it_got_gets_nothing() {
    let mut guest = guest();
    let (mut stream, ports) = connected(&mut guest);
    let header = PacketHeader { fwd_cnt: 1, ..guest.header(ports, Op::CreditUpdate) };
    guest.send_raw(header, &[]);
    stream.write_all(b"data").unwrap();
    let ops: Vec<u16> = guest.collect().iter().map(|(h, _)| h.op).collect();
    assert_eq!(ops, [Op::CreditRequest as u16]);
}

#[test]
fn writable_flags_on_the_event_ring_are_checked() {
    let mut guest = guest();
    guest.event.descriptor(0, 0x8_0000, 3, WRITE, 0);
    guest.event.publish(0);
    guest.host.send_transport_reset();
    assert!(matches!(fault(&guest), DeviceFault::BadChain { queue: 2, .. }));
}
