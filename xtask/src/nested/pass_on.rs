//! Passes jobs' output on to this program's own streams.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use super::job::{Finished, Observer, Stream};

/// Writes output to the stream of ours that corresponds. Where the reader has closed it, output is lost,
/// which is no reason to stop.
pub fn pass_on(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        Stream::Stderr => io::stderr().lock().write_all(bytes),
    };
}

/// Held while a block is shown.
static BLOCK: Mutex<()> = Mutex::new(());

/// Shows a title and output so that no other block comes between them.
pub fn block(title: &str, pieces: &[(Stream, Vec<u8>)]) {
    let _held = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    pass_on(Stream::Stderr, title.as_bytes());
    for (stream, bytes) in pieces {
        pass_on(*stream, bytes);
    }
}

/// Passes all output on and remembers how each job ended.
#[derive(Debug, Default)]
pub struct PassOn {
    /// Jobs that ended, in their order.
    pub finished: Vec<Finished>,
}

impl Observer for PassOn {
    fn ready(&mut self, kvm: &str) {
        eprintln!("The nested machine is up: {kvm}.");
    }

    fn output(&mut self, _: usize, stream: Stream, bytes: &[u8]) {
        pass_on(stream, bytes);
    }

    fn finished(&mut self, _: usize, finished: &Finished) {
        self.finished.push(finished.clone());
    }

    fn repeats(&mut self, _: usize, why: &str) {
        eprintln!("{why}\nIt is run once more in a new machine.");
    }

    fn lost(&mut self, _: usize, why: &str) {
        eprintln!("{why}");
    }
}
