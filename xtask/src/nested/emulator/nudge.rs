//! Keeps an emulated machine from standing still for good.
//!
//! QEMU now and then loses the interrupt of a timer that was all a halted processor waited for. Any
//! other interrupt wakes it up, and a kernel that wakes up looks at its timers. A byte on the port
//! is such an interrupt.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::nested::wire::Order;

/// Between two bytes.
const EVERY: Duration = Duration::from_secs(1);

/// Bytes come for as long as this is there.
pub struct Nudges {
    _end: mpsc::Sender<()>,
}

impl Nudges {
    /// Sends the machine behind `port` a byte every second.
    pub fn start(port: &UnixStream) -> io::Result<Self> {
        let mut port = port.try_clone()?;
        let (end, ended) = mpsc::channel();
        thread::Builder::new().name("nudges".into()).spawn(move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                // The machine has closed its end.
                if port.write_all(&Order::Nudge.encode()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { _end: end })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn bytes_come_until_there_is_no_need_for_them() {
        let (ours, mut machine) = UnixStream::pair().unwrap();
        let nudges = Nudges::start(&ours).unwrap();
        let mut bytes = [1; 2];
        machine.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [0, 0]);
        drop((nudges, ours));
        // Ends, because the other end is closed.
        let mut rest = Vec::new();
        machine.read_to_end(&mut rest).unwrap();
    }
}
