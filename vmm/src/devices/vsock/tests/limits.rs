//! Bounds: connections, backlog, lingering, answers, work per notification.

use std::io::{Read, Write};

use super::guest::{Behaviour, Guest};
use super::streams::{PORTS, accepted, with_host};
use super::{GUEST_PORT, HOST_PORT, LIMIT};
use crate::devices::vsock::VsockError;
use crate::devices::vsock::connection::Ports;
use crate::devices::vsock::limits::{BACKLOG, MAX_CONNECTIONS, MAX_LINGERING, MAX_PENDING_RST};
use crate::devices::vsock::packet::Op;
use crate::devices::vsock::queue::{self, RECEIVE, TRANSMIT};

fn from(guest: usize) -> Ports {
    Ports { guest: 10_000 + guest as u32, host: HOST_PORT }
}

#[test]
fn two_hundred_connections_do_not_mix() {
    let mut guest = Guest::start(Behaviour::default());
    let listener = guest.host.listen(HOST_PORT).unwrap();
    let mut streams = Vec::new();
    for index in 0..200 {
        assert!(guest.connect(from(index)));
        streams.push(listener.accept(Some(LIMIT)).unwrap());
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        guest.send_payload(from(index), format!("guest {index}").as_bytes());
        write!(stream, "host {index}").unwrap();
        guest.step();
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut data = [0; 64];
        let count = stream.read(&mut data).unwrap();
        assert_eq!(&data[..count], format!("guest {index}").as_bytes());
        let ports = from(index);
        let expected = format!("host {index}").into_bytes();
        guest.run_until(|guest| guest.peers[&ports].received == expected);
    }
    drop(streams);
    guest.run_until(|guest| guest.peers.values().all(|peer| peer.reset));
    drop(listener);
    assert_eq!(guest.host.capture().muxer.counts(), [0; 6]);
    assert_eq!(guest.host.counters().linger_evictions, 0);
}

#[test]
fn a_full_backlog_refuses_until_one_is_accepted() {
    let mut guest = Guest::start(Behaviour::default());
    let listener = guest.host.listen(HOST_PORT).unwrap();
    for index in 0..BACKLOG {
        assert!(guest.connect(from(index)));
    }
    assert!(!guest.connect(from(BACKLOG)));
    assert_eq!(guest.host.counters().refused_backlog_full, 1);
    let first = listener.accept(Some(LIMIT)).unwrap();
    assert_eq!(first.guest_port(), from(0).guest);
    assert!(guest.connect(from(BACKLOG)));
}

#[test]
fn the_number_of_connections_is_bounded() {
    let mut guest = Guest::start(Behaviour::default());
    let listener = guest.host.listen(HOST_PORT).unwrap();
    let mut streams = Vec::new();
    for index in 0..MAX_CONNECTIONS {
        assert!(guest.connect(from(index)));
        streams.push(listener.accept(Some(LIMIT)).unwrap());
    }
    assert!(!guest.connect(from(MAX_CONNECTIONS)));
    assert_eq!(guest.host.counters().refused_limit, 1);
    let refused = guest.host.connect(GUEST_PORT, LIMIT).unwrap_err();
    assert_eq!(refused, VsockError::TooMany);
    // One that only waits for the guest makes room.
    streams.pop();
    assert!(guest.connect(from(MAX_CONNECTIONS + 1)));
}

#[test]
fn a_guest_that_never_lets_go_is_reset() {
    let mut guest = Guest::start(Behaviour::default());
    let listener = guest.host.listen(HOST_PORT).unwrap();
    for index in 0..MAX_LINGERING + 10 {
        guest.send(from(index), Op::Request);
        drop(listener.accept(Some(LIMIT)).unwrap());
        guest.receive();
    }
    let [connections, _, _, lingering, _, _] = guest.host.capture().muxer.counts();
    assert_eq!((connections, lingering), (MAX_LINGERING, MAX_LINGERING));
    assert_eq!(guest.host.counters().linger_evictions, 10);
}

#[test]
fn calls_that_time_out_leave_nothing_behind() {
    let guest = Guest::start(Behaviour { receive_buffers: 0, ..Behaviour::default() });
    for _ in 0..2000 {
        let nobody = guest.host.connect(GUEST_PORT, std::time::Duration::ZERO);
        assert_eq!(nobody.unwrap_err(), VsockError::TimedOut);
    }
    assert_eq!(guest.host.capture().muxer.counts(), [0; 6]);
}

#[test]
fn a_call_that_timed_out_after_its_request_is_taken_back() {
    let mut guest = Guest::start(Behaviour::default());
    let nobody = guest.host.connect(GUEST_PORT, std::time::Duration::ZERO);
    assert_eq!(nobody.unwrap_err(), VsockError::TimedOut);
    let ops: Vec<u16> = guest.receive().iter().map(|(h, _)| h.op).collect();
    assert_eq!(ops, [Op::Request as u16, Op::Rst as u16]);
}

#[test]
fn a_guest_that_takes_no_answers_is_not_listened_to_until_it_does() {
    for event_idx in [false, true] {
        let mut guest =
            Guest::start(Behaviour { event_idx, receive_buffers: 0, ..Behaviour::default() });
        // Refused connections, until the device takes no more.
        let mut sent = 0;
        while guest.can_transmit() {
            guest.send(from(sent), Op::Request);
            sent += 1;
        }
        assert!(sent > MAX_PENDING_RST);
        assert_eq!(guest.host.counters().packets_from_guest, MAX_PENDING_RST as u64);
        assert_eq!(guest.host.capture().muxer.counts()[5], MAX_PENDING_RST);
        guest.force_kick(TRANSMIT);
        assert_eq!(guest.host.counters().packets_from_guest, MAX_PENDING_RST as u64);
        // Buffers bring everything back, without another kick of the transmit queue.
        let mut answers = 0;
        while answers < sent {
            assert!(guest.post_receive(4096));
            guest.kick(RECEIVE);
            let packets = guest.collect();
            assert_eq!(packets.len(), 1, "after {answers} of {sent} answers");
            assert_eq!(packets[0].0.op, Op::Rst as u16);
            answers += 1;
        }
        assert_eq!(guest.host.counters().packets_from_guest, sent as u64);
        assert!(guest.can_transmit());
    }
}

#[test]
fn a_flood_of_refused_calls_does_not_silence_a_stream() {
    let mut guest = Guest::start(Behaviour { receive_buffers: 0, ..Behaviour::default() });
    let listener = guest.host.listen(HOST_PORT).unwrap();
    guest.post_receive(4096);
    guest.send(PORTS, Op::Request);
    guest.collect();
    let mut stream = listener.accept(Some(LIMIT)).unwrap();
    let mut sent = 0;
    while guest.can_transmit() {
        let ports = Ports { guest: 20_000 + sent, host: 1 };
        guest.send(ports, Op::Request);
        sent += 1;
    }
    stream.write_all(b"heard").unwrap();
    let heard = (0..2).any(|_| {
        guest.post_receive(4096);
        guest.kick(RECEIVE);
        guest.collect().iter().any(|(_, data)| data == b"heard")
    });
    assert!(heard);
}

#[test]
fn work_left_over_is_done_at_the_next_kick() {
    for event_idx in [false, true] {
        let mut guest = Guest::start(Behaviour { event_idx, ..Behaviour::default() });
        let _stream = accepted(&mut guest);
        guest.host.quiesce();
        for _ in 0..10 {
            guest.send(PORTS, Op::CreditUpdate);
        }
        let before = guest.host.counters().packets_from_guest;
        guest.host.shared_for_test().with(|core| {
            core.muxer.transmit_waiting = true;
            let active = core.active.as_mut().unwrap();
            queue::service_within(4, active, &mut core.muxer, &mut core.host).unwrap();
            core.held = false;
        });
        assert_eq!(guest.host.counters().packets_from_guest, before + 4);
        let kicks = guest.kicks;
        guest.send(PORTS, Op::CreditUpdate);
        assert_eq!(guest.kicks, kicks + 1, "the device must ask to be called again");
        assert_eq!(guest.host.counters().packets_from_guest, before + 11);
    }
}

#[test]
fn work_left_over_is_done_when_the_driver_acknowledges_the_interrupt() {
    use crate::devices::virtio::VirtioDevice;
    let mut guest = Guest::start(Behaviour::default());
    let _stream = accepted(&mut guest);
    // With the transmit ring never looked at again, the driver wants no interrupt for it.
    for _ in 0..5 {
        guest.send(PORTS, Op::CreditUpdate);
    }
    guest.host.quiesce();
    for _ in 0..10 {
        guest.send(PORTS, Op::CreditUpdate);
    }
    let before = guest.host.counters().packets_from_guest;
    let interrupts = guest.interrupts();
    guest.host.shared_for_test().with(|core| {
        core.muxer.transmit_waiting = true;
        let active = core.active.as_mut().unwrap();
        queue::service_within(4, active, &mut core.muxer, &mut core.host).unwrap();
        core.held = false;
    });
    assert!(guest.interrupts() > interrupts);
    guest.device.continue_work().unwrap();
    assert_eq!(guest.host.counters().packets_from_guest, before + 10);
}

#[test]
fn packets_left_over_go_out_with_the_next_buffer() {
    for event_idx in [false, true] {
        let mut guest =
            Guest::start(Behaviour { event_idx, receive_bytes: 45, ..Behaviour::default() });
        let mut stream = accepted(&mut guest);
        guest.host.quiesce();
        stream.write_all(b"0123456789").unwrap();
        while guest.post_receive(45) {}
        guest.kick(RECEIVE);
        guest.host.shared_for_test().with(|core| {
            let active = core.active.as_mut().unwrap();
            queue::service_within(4, active, &mut core.muxer, &mut core.host).unwrap();
            core.held = false;
        });
        assert_eq!(guest.collect().len(), 4);
        guest.post_receive(45);
        let kicks = guest.kicks;
        guest.kick(RECEIVE);
        assert_eq!(guest.kicks, kicks + 1, "the device must ask to be called again");
        assert_eq!(guest.collect().len(), 6);
    }
}

#[test]
fn an_endless_supply_of_packets_does_not_keep_the_thread() {
    use crate::devices::virtio::VirtioDevice;
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut guest = Guest::start(Behaviour::default());
    let done = AtomicBool::new(false);
    let mut ring = guest.transmit.clone();
    guest.transmit_bytes(&guest.header(PORTS, Op::Rst).to_bytes(), &[]);
    ring.clone_from(&guest.transmit);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Every chain is the first one: nothing but the ring's index moves.
            while !done.load(Ordering::SeqCst) {
                if ring.take_used().is_some() {
                    ring.publish(0);
                }
            }
        });
        guest.device.notify(TRANSMIT).unwrap();
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn host_ports_of_calls_go_round_and_skip_listeners() {
    let mut guest = Guest::start(Behaviour::default());
    guest.listening.insert(GUEST_PORT);
    let first = 1 << 30;
    let _listener = guest.host.listen(first + 1).unwrap();
    let call =
        |guest: &mut Guest| with_host(guest, |h| h.connect(GUEST_PORT, LIMIT).unwrap(), |_| {});
    let a = call(&mut guest);
    let b = call(&mut guest);
    assert_eq!((a.host_port(), b.host_port()), (first, first + 2));
    guest.host.shared_for_test().with(|core| core.muxer.set_next_port(u32::MAX - 1));
    let c = call(&mut guest);
    let d = call(&mut guest);
    assert_eq!((c.host_port(), d.host_port()), (u32::MAX - 1, first + 3));
}
