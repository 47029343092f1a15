//! The signals that a serving agent hears: SIGTERM and SIGINT end it, SIGHUP has files read again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To stop; for the second time, at once.
    Stop,
    /// To read keys and policy again.
    Reload,
}

/// Has signals that would end a process that is only starting leave it alone until [`Signals`] hears
/// them: SIGHUP, which a manager sends whenever files have changed, and SIGXFSZ, so that a file that may
/// not grow (setrlimit(2)) is an error of that write. To be called while the process has one thread.
pub fn bear_during_start() {
    for early in [libc::SIGHUP, libc::SIGXFSZ] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(early, libc::SIG_IGN) };
    }
}

/// The signals, heard from when this was made. Those that come meanwhile wait.
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    /// Kept, so that the signal stays an error of the write.
    _too_large: Signal,
}

impl Signals {
    /// Hears them from now on. Must be called within a runtime.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            _too_large: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::Stop,
            _ = self.int.recv() => Asked::Stop,
            _ = self.hup.recv() => Asked::Reload,
        }
    }

    /// Waits for one that asks to stop. Others change nothing any more.
    pub async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}
