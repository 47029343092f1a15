//! Tells the host that the machine works, and looks at a job that says nothing for a long time.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::idle::IdleTime;
use super::processes;
use crate::nested::wire::{self, Message, Notice};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(2);
/// How long a job may say nothing.
#[derive(Debug, Clone, Copy)]
struct SilenceLimits {
    /// While the processors are mostly idle: a test that waits prints its result long before.
    idle: Duration,
    /// While they work: a thousand resets take minutes on a host that is busy with other things.
    busy: Duration,
}

const SILENCE_LIMITS: SilenceLimits =
    SilenceLimits { idle: Duration::from_secs(300), busy: Duration::from_secs(1200) };

/// The way to the host, for several threads.
#[derive(Clone)]
pub struct Port(Arc<Mutex<Inner>>);

struct Inner {
    port: Box<dyn Write + Send>,
    job: Option<Running>,
}

/// The job that runs.
#[derive(Debug, Clone, Copy)]
struct Running {
    index: usize,
    /// When it printed something for the last time.
    printed: Instant,
    /// The processors' idle time at that moment.
    idle: IdleTime,
}

impl Running {
    fn now(index: usize) -> Self {
        Self { index, printed: Instant::now(), idle: IdleTime::read() }
    }

    /// Whether it has been silent for longer than `patience` allows.
    fn is_stuck(&self, patience: SilenceLimits) -> bool {
        let silence = self.printed.elapsed();
        silence >= patience.busy
            || (silence >= patience.idle && IdleTime::read().mostly_idle_since(self.idle))
    }
}

impl Port {
    pub fn new(port: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner { port: Box::new(port), job: None })))
    }

    /// Sends a message and remembers what it says about jobs.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Message::Notice(Notice::Started { index }) => inner.job = Some(Running::now(*index)),
            Message::Notice(Notice::Finished { .. }) => inner.job = None,
            Message::Output(..) => {
                inner.job = inner.job.map(|job| Running::now(job.index));
            }
            Message::Notice(_) => {}
        }
        wire::send(&mut inner.port, message)
    }

    /// The job that is stuck.
    fn stuck(&self, patience: SilenceLimits) -> Option<usize> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.job.filter(|job| job.is_stuck(patience)).map(|job| job.index)
    }

    /// One sign of life, or the news that a job is stuck. False once the host has gone.
    fn beat(&self, patience: SilenceLimits) -> bool {
        let notice = match self.stuck(patience) {
            Some(index) => Notice::Stuck { index, report: processes::report() },
            None => Notice::Alive,
        };
        self.send(&Message::Notice(notice)).is_ok()
    }
}

/// Watches until the host has gone.
pub fn start(port: &Port) {
    let port = port.clone();
    std::thread::spawn(move || {
        while port.beat(SILENCE_LIMITS) {
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

    const LONG: Duration = Duration::from_secs(60);

    fn port_with_a_job() -> (Port, Sent) {
        let sent = Sent::default();
        let port = Port::new(sent.clone());
        port.send(&Message::Notice(Notice::Started { index: 4 })).unwrap();
        port.send(&Message::Output(Stream::Stdout, b"x".to_vec())).unwrap();
        (port, sent)
    }

    #[test]
    fn a_job_is_stuck_once_it_is_silent_for_too_long() {
        let (port, sent) = port_with_a_job();
        assert!(port.beat(SilenceLimits { idle: LONG, busy: LONG }));
        assert_eq!(sent.last(), Message::Notice(Notice::Alive));
        assert!(port.beat(SilenceLimits { idle: LONG, busy: Duration::ZERO }));
        let Message::Notice(Notice::Stuck { index: 4, report }) = sent.last() else {
            panic!("{:?}", sent.last())
        };
        assert!(report.contains(&std::process::id().to_string()), "{report}");
    }

    #[test]
    fn without_a_job_nothing_is_stuck() {
        let sent = Sent::default();
        let port = Port::new(sent.clone());
        assert!(port.beat(SilenceLimits { idle: Duration::ZERO, busy: Duration::ZERO }));
        assert_eq!(sent.last(), Message::Notice(Notice::Alive));
    }
}
