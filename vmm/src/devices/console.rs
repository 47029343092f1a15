//! What the guest wrote to its serial console, in a bounded ring.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// First words of the kernel's message when it gives up.
const PANIC: &str = "Kernel panic - not syncing";

/// A bounded ring that keeps the newest bytes. Clones share it.
#[derive(Clone)]
pub struct Console {
    ring: Arc<Mutex<OutputRing>>,
}

struct OutputRing {
    bytes: VecDeque<u8>,
    capacity: usize,
    dropped: u64,
}

/// A copy of the console's content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConsoleSnapshot {
    /// The newest bytes, oldest first.
    pub bytes: Vec<u8>,
    /// How many older bytes were dropped.
    pub dropped: u64,
}

impl Console {
    /// A ring of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        let ring = OutputRing { bytes: VecDeque::new(), capacity, dropped: 0 };
        Self { ring: Arc::new(Mutex::new(ring)) }
    }

    /// A copy of what the ring holds.
    pub fn snapshot(&self) -> ConsoleSnapshot {
        let ring = self.lock();
        ConsoleSnapshot { bytes: ring.bytes.iter().copied().collect(), dropped: ring.dropped }
    }

    fn lock(&self) -> MutexGuard<'_, OutputRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Console {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut ring = self.lock();
        let skip = data.len().saturating_sub(ring.capacity);
        let kept = data.get(skip..).unwrap_or_default();
        let excess = (ring.bytes.len() + kept.len()).saturating_sub(ring.capacity);
        ring.bytes.drain(..excess);
        ring.bytes.extend(kept);
        ring.dropped += (skip + excess) as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ConsoleSnapshot {
    /// The last `count` lines that are not empty, with what is not printable replaced.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<String> = text.lines().map(printable).filter(|l| !l.is_empty()).collect();
        lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().to_vec()
    }

    /// The line with which the kernel announced its panic, if it did.
    pub fn panic_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        text.lines().find(|line| line.contains(PANIC)).map(printable)
    }
}

/// Guest text must not drive the operator's terminal.
fn printable(line: &str) -> String {
    line.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_stay() {
        let mut console = Console::new(4);
        console.write_all(b"abc").unwrap();
        console.write_all(b"def").unwrap();
        assert_eq!(console.snapshot(), ConsoleSnapshot { bytes: b"cdef".to_vec(), dropped: 2 });
        console.write_all(b"0123456789").unwrap();
        assert_eq!(console.snapshot(), ConsoleSnapshot { bytes: b"6789".to_vec(), dropped: 12 });
    }

    #[test]
    fn panic_and_last_lines_are_found_and_made_printable() {
        let mut console = Console::new(4096);
        let text = b"one\r\n\x1b[31mtwo\n\n[ 0.1] Kernel panic - not syncing: no init\r\n";
        console.write_all(text).unwrap();
        let snapshot = console.snapshot();
        assert_eq!(snapshot.last_lines(2)[0], "\u{fffd}[31mtwo");
        let line = "[ 0.1] Kernel panic - not syncing: no init";
        assert_eq!(snapshot.panic_line().as_deref(), Some(line));
    }
}
