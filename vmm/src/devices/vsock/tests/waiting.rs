//! Blocking calls: limits, several waiters, and the end of the machine.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::guest::{Behaviour, Guest};
use super::streams::{PORTS, accepted, connected};
use super::{GUEST_PORT, HOST_PORT, LIMIT};
use crate::devices::vsock::VsockError;
use crate::devices::vsock::connection::BUFFER_BYTES;
use crate::devices::vsock::packet::Op;
use crate::devices::vsock::queue::EVENT;

const SHORT: Duration = Duration::from_millis(5);

#[test]
fn every_wait_has_its_limit() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    stream.set_read_timeout(Some(SHORT));
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let listener = guest.host.listen(1).unwrap();
    let nobody = listener.accept(Some(SHORT)).unwrap_err();
    assert_eq!(nobody, VsockError::TimedOut);
    let silence = guest.host.connect(GUEST_PORT, SHORT).unwrap_err();
    assert_eq!(silence, VsockError::TimedOut);
    // Data that came in time is not lost.
    guest.send_payload(PORTS, b"late");
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 4);
}

#[test]
fn a_read_of_nothing_does_not_wait() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest);
    assert_eq!(stream.read(&mut []).unwrap(), 0);
    assert_eq!(stream.write(&[]).unwrap(), 0);
}

#[test]
fn clones_share_the_bytes() {
    let mut guest = Guest::start(Behaviour::default());
    let stream = accepted(&mut guest);
    let (tell, told) = mpsc::channel();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = stream.try_clone().unwrap();
            let tell = tell.clone();
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read(&mut byte).unwrap() == 1 {
                    tell.send(byte[0]).unwrap();
                }
            })
        })
        .collect();
    drop(tell);
    let sent: Vec<u8> = (0..=255).collect();
    for chunk in sent.chunks(10) {
        guest.send_payload(PORTS, chunk);
    }
    guest.send_shutdown(PORTS, crate::devices::vsock::packet::SHUTDOWN_SEND);
    for reader in readers {
        reader.join().unwrap();
    }
    let mut got: Vec<u8> = told.iter().collect();
    got.sort_unstable();
    assert_eq!(got, sent);
}

#[test]
fn the_end_of_the_machine_ends_every_wait() {
    let mut guest = Guest::start(Behaviour { buffer: 0, ..Behaviour::default() });
    let (mut reader, _) = connected(&mut guest);
    let (mut writer, _) = connected(&mut guest);
    writer.write_all(&vec![0; BUFFER_BYTES as usize]).unwrap();
    let listener = guest.host.listen(HOST_PORT).unwrap();
    let host = guest.host.clone();
    let is_stopped = |error: std::io::Error| {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<VsockError>());
        inner == Some(&VsockError::MachineStopped("power cut".into()))
    };
    thread::scope(|scope| {
        let waits = [
            scope.spawn(|| is_stopped(reader.read(&mut [0; 8]).unwrap_err())),
            scope.spawn(|| is_stopped(writer.write(&[0; 8]).unwrap_err())),
            scope.spawn(|| is_stopped(listener.accept(None).unwrap_err().into())),
            scope.spawn(|| is_stopped(host.connect(1, LIMIT).unwrap_err().into())),
        ];
        thread::sleep(SHORT);
        guest.host.close_all("power cut");
        guest.host.close_all("a later reason");
        for wait in waits {
            assert!(wait.join().unwrap());
        }
    });
    assert!(guest.host.connect(1, LIMIT).is_err());
    assert!(guest.host.listen(5).is_err());
    assert!(reader.try_clone().is_err());
}

#[test]
fn the_end_of_the_machine_gives_back_its_memory() {
    let guest = Guest::start(Behaviour::default());
    let memory = std::sync::Arc::downgrade(&guest.memory);
    let held = memory.strong_count();
    guest.host.close_all("power cut");
    assert_eq!(memory.strong_count(), held - 1);
}

#[test]
fn configuration_space_holds_the_cid() {
    use crate::devices::virtio::VirtioDevice;
    let (device, _) = crate::devices::vsock::VsockDevice::new(0x0123_4567_89ab_cdef);
    let mut all = [0xff; 10];
    device.read_config(0, &mut all);
    assert_eq!(all, [0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0]);
    let mut high = [0; 4];
    device.read_config(4, &mut high);
    assert_eq!(high, [0x67, 0x45, 0x23, 0x01]);
    device.read_config(u64::MAX, &mut high);
    assert_eq!(high, [0; 4]);
    assert_eq!(device.device_type(), 19);
    assert_eq!(device.features(), 1 << 32 | 1 << 29);
}

#[test]
fn a_transport_reset_reaches_the_guest_and_ends_its_connections() {
    for event_idx in [false, true] {
        let mut guest = Guest::start(Behaviour { event_idx, ..Behaviour::default() });
        let mut stream = accepted(&mut guest);
        guest.post_event();
        guest.host.send_transport_reset();
        assert_eq!(guest.event.take_used().unwrap().1, 4);
        let error = stream.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        // Without a buffer it waits for one.
        guest.host.send_transport_reset();
        assert!(guest.event.take_used().is_none());
        let kicks = guest.kicks;
        guest.post_event();
        assert_eq!(guest.kicks, kicks + 1);
        assert_eq!(guest.event.take_used().unwrap().1, 4);
        guest.force_kick(EVENT);
        assert!(guest.event.take_used().is_none());
        // What the guest still says on the old connection is reset.
        guest.send(PORTS, Op::CreditUpdate);
        guest.run_until(|guest| guest.peers[&PORTS].reset);
    }
}
