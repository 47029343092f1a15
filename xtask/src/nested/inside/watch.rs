//! Tells the host that the machine works, and looks at a job that says nothing for a long time.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::processes;
use crate::nested::wire::{self, Message, Notice};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(2);
/// No test takes this long, even on a busy host.
const JOB_SILENCE: Duration = Duration::from_secs(300);

/// The way to the host, for several threads.
#[derive(Clone)]
pub struct Port(Arc<Mutex<Inner>>);

struct Inner {
    port: Box<dyn Write + Send>,
    /// The job that runs, and when it last wrote output.
    job: Option<(usize, Instant)>,
}

impl Port {
    pub fn new(port: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner { port: Box::new(port), job: None })))
    }

    /// Sends a message and remembers what it says about jobs.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Message::Notice(Notice::Started { index }) => {
                inner.job = Some((*index, Instant::now()));
            }
            Message::Notice(Notice::Finished { .. }) => inner.job = None,
            Message::Output(..) => {
                if let Some((_, last_output)) = &mut inner.job {
                    *last_output = Instant::now();
                }
            }
            Message::Notice(_) => {}
        }
        wire::send(&mut inner.port, message)
    }

    /// The job that has been silent for at least `limit`.
    fn silent(&self, limit: Duration) -> Option<usize> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.job.filter(|(_, last_output)| last_output.elapsed() >= limit).map(|(index, _)| index)
    }

    /// One sign of life, or the news that a job is stuck. False when the host has closed the port.
    fn beat(&self, silence: Duration) -> bool {
        let notice = match self.silent(silence) {
            Some(index) => Notice::Stuck { index, report: processes::report() },
            None => Notice::Alive,
        };
        self.send(&Message::Notice(notice)).is_ok()
    }
}

/// Watches until the host closes the port.
pub fn start(port: &Port) {
    let port = port.clone();
    std::thread::spawn(move || {
        while port.beat(JOB_SILENCE) {
            std::thread::sleep(BEAT);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nested::job::Stream;

    /// What was sent, readable while the port is in use.
    #[derive(Clone, Default)]
    struct Sent(Arc<Mutex<Vec<u8>>>);

    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sent {
        fn last(&self) -> Message {
            let bytes = self.0.lock().unwrap().clone();
            let mut reader = bytes.as_slice();
            let mut last = None;
            while let Some(message) = wire::receive(&mut reader).unwrap() {
                last = Some(message);
            }
            last.unwrap()
        }
    }

    #[test]
    fn only_a_silent_job_is_stuck() {
        let sent = Sent::default();
        let port = Port::new(sent.clone());
        let alive = Message::Notice(Notice::Alive);
        assert!(port.beat(Duration::ZERO));
        assert_eq!(sent.last(), alive);
        port.send(&Message::Notice(Notice::Started { index: 4 })).unwrap();
        port.send(&Message::Output(Stream::Stdout, b"x".to_vec())).unwrap();
        assert!(port.beat(Duration::from_secs(60)));
        assert_eq!(sent.last(), alive);
        assert!(port.beat(Duration::ZERO));
        let Message::Notice(Notice::Stuck { index: 4, report }) = sent.last() else {
            panic!("{:?}", sent.last())
        };
        assert!(report.contains(&std::process::id().to_string()), "{report}");
    }
}
