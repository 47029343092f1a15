//! Packets that lie.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use super::guest::Step;
use super::packet::{self, DATA, Packet, REQUEST, RESET, RESPONSE};
use super::rings::{self, Device, HEADER, RECEIVE};
use super::stage::Fate::{Stops, Works};
use super::stage::{CID, PORT, Stage};
use crate::VsockCounters;

const SOCKETS: Device = Device::Sockets;
const LIMIT: Option<Duration> = Some(Duration::from_secs(20));
/// What a connection holds for the host.
const CREDIT: usize = 256 << 10;
const PIECE: usize = 4096;

fn counters(stage: &Stage) -> VsockCounters {
    stage.machine().vsock().counters()
}

#[test]
fn packets_for_others_from_others_and_of_no_kind_are_counted_and_come_to_nothing() {
    type Count = fn(VsockCounters) -> u64;
    let good = Packet::request(50_000);
    let attacks: &[(&str, Packet, Count)] = &[
        ("another guest's address", Packet { from: CID + 1, ..good.clone() }, |c| c.spoofed_source),
        ("the host's address", Packet { from: 2, ..good.clone() }, |c| c.spoofed_source),
        ("an address of 64 bits", Packet { from: CID | 1 << 32, ..good.clone() }, |c| {
            c.spoofed_source
        }),
        ("to the hypervisor", Packet { to: 0, ..good.clone() }, |c| c.wrong_destination),
        ("to itself", Packet { to: CID, ..good.clone() }, |c| c.wrong_destination),
        ("to another guest", Packet { to: CID + 1, ..good.clone() }, |c| c.wrong_destination),
        ("to everybody", Packet { to: u64::MAX, ..good.clone() }, |c| c.wrong_destination),
        ("to a closed port", Packet { to_port: PORT + 1, ..good.clone() }, |c| {
            c.refused_no_listener
        }),
        ("of no type", Packet { kind: 0, ..good.clone() }, |c| c.unknown_type),
        ("of another type", Packet { kind: 2, ..good.clone() }, |c| c.unknown_type),
        ("no operation", Packet { op: 0, ..good.clone() }, |c| c.unknown_operation),
        ("an unknown operation", Packet { op: 8, ..good.clone() }, |c| c.unknown_operation),
        ("the last operation", Packet { op: u16::MAX, ..good.clone() }, |c| c.unknown_operation),
        ("data for nobody", Packet { op: DATA, ..good.clone() }, |c| c.unknown_connection),
        ("an answer to nothing", Packet { op: RESPONSE, ..good.clone() }, |c| c.unknown_connection),
    ];
    let stage = Stage::new();
    let listener = stage.machine().vsock().listen(PORT).unwrap();
    for (what, packet, count) in attacks {
        let before = counters(&stage);
        stage.send(packet);
        assert_eq!(count(counters(&stage)), count(before) + 1, "{what}");
        assert!(listener.accept(Some(Duration::ZERO)).is_err(), "{what} became a connection");
    }
    // The control: the same packet without a lie is a connection.
    stage.send(&good);
    assert!(listener.accept(LIMIT).is_ok());
    drop(listener);
    stage.assert_healthy("lies");
    stage.come_back("lies");
}

#[test]
fn lengths_that_are_not_those_of_the_chain() {
    let mut stage = Stage::new();
    let good = Packet::request(50_000).with(b"1234");
    let header = |length| rings::chain(&[(HEADER, length, false)]);
    for (what, length, chain, fate) in [
        ("as long as it says", 4, good.chain(), Works),
        ("less than there is", 1, good.chain(), Works),
        ("one byte more than there is", 5, good.chain(), Stops("a payload of 5 bytes")),
        ("all bytes there are", u32::MAX, good.chain(), Stops("a payload of 4294967295 bytes")),
        ("a payload without a buffer", 4, header(44), Stops("a payload of 4 bytes")),
        ("43 bytes of header", 0, header(43), Stops("bad descriptor chain")),
        ("no header", 0, header(0), Stops("bad descriptor chain")),
    ] {
        stage.put(HEADER, &Packet { length, ..good.clone() }.header());
        let steps = stage.offer(SOCKETS, &chain);
        stage.suffer(what, SOCKETS, &steps, fate);
    }
}

/// Opens a connection and sends `bytes`, in pieces, to a host that does not read.
fn pour(stage: &Stage, from_port: u32, bytes: usize) {
    stage.send(&Packet::request(from_port));
    let piece = Packet { op: DATA, ..Packet::request(from_port) };
    let many = piece.clone().with(&[0x77; PIECE]);
    stage.put(HEADER, &many.header());
    stage.put(rings::DATA, &many.payload);
    let mut steps = stage.offer(SOCKETS, &many.chain());
    steps.push(Step::Repeat(0, (bytes / PIECE) as u64));
    stage.run(&steps).unwrap();
    if !bytes.is_multiple_of(PIECE) {
        stage.send(&piece.with(&vec![0x77; bytes % PIECE]));
    }
}

#[test]
fn whoever_overruns_its_credit_loses_that_connection_alone() {
    let stage = Stage::new();
    let listener = stage.machine().vsock().listen(PORT).unwrap();
    pour(&stage, 50_000, CREDIT);
    let mut kept = listener.accept(LIMIT).unwrap();
    assert_eq!(counters(&stage).credit_violations, 0);
    pour(&stage, 50_001, CREDIT + 1);
    let mut lost = listener.accept(LIMIT).unwrap();
    assert_eq!(counters(&stage).credit_violations, 1);
    let (answer, _) = stage.received().unwrap();
    assert_eq!((answer.op, answer.to_port), (RESET, 50_001));
    let mut bytes = vec![0; CREDIT];
    kept.read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0x77));
    let all = lost.read_to_end(&mut Vec::new());
    assert!(all.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    drop((kept, lost, listener));
    stage.assert_healthy("credit");
    stage.come_back("credit");
}

#[test]
fn a_million_tiny_packets() {
    let mut stage = Stage::new();
    let before = counters(&stage).packets_from_guest;
    // Resets of nothing: never answered, so nothing but the budget bounds them.
    stage.put(HEADER, &Packet { op: RESET, ..Packet::request(50_000) }.header());
    let mut steps = stage.offer(SOCKETS, &rings::chain(&[(HEADER, 44, false)]));
    let ring = SOCKETS.requests();
    steps[0] = Step::Add16(ring.available + 2, ring.size);
    let rounds = 1_000_000 / u64::from(ring.size);
    steps.push(Step::Repeat(0, rounds));
    stage.suffer("tiny packets", SOCKETS, &steps, Works);
    let taken = counters(&stage).packets_from_guest - before;
    assert!(taken >= rounds * u64::from(ring.size), "{taken}");
}

#[test]
fn more_connections_than_anybody_accepts() {
    let stage = Stage::new();
    let listener = stage.machine().vsock().listen(PORT).unwrap();
    let request = Packet { op: REQUEST, ..Packet::request(0) };
    stage.put(HEADER, &request.header());
    let once = stage.offer(SOCKETS, &request.chain());
    let mut steps = Vec::new();
    for port in 1..=2000_u32 {
        steps.push(Step::Put32(HEADER + 16, port));
        steps.extend(&once);
        // Each answer takes a buffer, which is given back.
        steps.push(Step::Add16(RECEIVE.available + 2, 1));
    }
    stage.run(&steps).unwrap();
    assert!(counters(&stage).refused_backlog_full > 1900, "{:?}", counters(&stage));
    let accepted = std::iter::from_fn(|| listener.accept(Some(Duration::ZERO)).ok()).count();
    assert_eq!(accepted as u64 + counters(&stage).refused_backlog_full, 2000);
    assert_eq!(stage.received().unwrap().0.op, packet::RESET);
    drop(listener);
    stage.come_back("connections");
}
