//! Streams on a single-threaded runtime.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::guest::{Behaviour, Guest, pattern};
use super::streams::{accepted, connected, with_host};
use crate::devices::vsock::connection::BUFFER_BYTES;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

#[test]
fn reading_and_writing_at_once() {
    let mut guest = Guest::start(Behaviour { buffer: 10_000, ..Behaviour::default() });
    let (stream, ports) = connected(&mut guest);
    guest.peers.get_mut(&ports).unwrap().echo = true;
    let data = pattern(1 << 20);
    let got = with_host(
        &mut guest,
        |_| {
            block_on(async {
                let (mut reader, mut writer) = tokio::io::split(stream.into_async());
                let mut got = Vec::new();
                let send = async {
                    writer.write_all(&data).await.unwrap();
                    writer.flush().await.unwrap();
                };
                let receive = async {
                    let mut buffer = vec![0; data.len()];
                    reader.read_exact(&mut buffer).await.unwrap();
                    got = buffer;
                };
                tokio::join!(send, receive);
                writer.shutdown().await.unwrap();
                got
            })
        },
        |_| {},
    );
    assert!(got == data);
    guest.run_until(|guest| guest.peers[&ports].shutdown != 0);
}

#[test]
fn a_pending_read_can_be_given_up() {
    let mut guest = Guest::start(Behaviour::default());
    let mut stream = accepted(&mut guest).into_async();
    block_on(async {
        let limit = Duration::from_millis(1);
        let waited = tokio::time::timeout(limit, stream.read_u8()).await;
        assert!(waited.is_err());
    });
    guest.send_payload(super::streams::PORTS, b"x");
    assert_eq!(block_on(stream.read_u8()).unwrap(), b'x');
}

#[test]
fn the_end_of_the_machine_wakes_tasks() {
    let mut guest = Guest::start(Behaviour { buffer: 0, ..Behaviour::default() });
    let (stream, _) = connected(&mut guest);
    let host = guest.host.clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        host.close_all("power cut");
    });
    block_on(async {
        let (mut reader, mut writer) = tokio::io::split(stream.into_async());
        let send = async {
            let data = vec![0; 2 * BUFFER_BYTES as usize];
            writer.write_all(&data).await.unwrap_err().kind()
        };
        let receive = async { reader.read_u8().await.unwrap_err().kind() };
        let kinds = tokio::join!(send, receive);
        assert_eq!(kinds, (ErrorKind::NotConnected, ErrorKind::NotConnected));
    });
    stopper.join().unwrap();
}
