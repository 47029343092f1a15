//! What the link is doing, for a person and for metrics.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use protocol::Timestamp;

/// What the link is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStatus {
    /// It tries to open a session.
    Connecting,
    /// There is a session.
    Connected {
        /// Since when.
        since: Timestamp,
        /// Id of the session.
        session: Arc<str>,
    },
    /// It waits before the next attempt.
    Waiting {
        /// Until when, about.
        until: Timestamp,
        /// Why there is no session, and what to do about it.
        reason: Arc<str>,
        /// Failures in a row.
        failures: u32,
    },
    /// Another agent with this identity took the session over. It waits, longer each time.
    Replaced {
        /// Until when, about.
        until: Timestamp,
        /// What to do about it.
        reason: Arc<str>,
    },
    /// It was told to stop.
    Stopped,
}

/// What went over the link since the start of the process.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Attempts to open a session.
    pub attempts: AtomicU64,
    /// Sessions opened.
    pub sessions: AtomicU64,
    /// Text and binary frames from relays.
    pub frames_in: AtomicU64,
    /// Text frames to relays.
    pub frames_out: AtomicU64,
    /// Frames from relays that were neither commands nor health, and were answered as errors.
    pub frames_refused: AtomicU64,
    /// Bytes from relays, without TLS and lower layers.
    pub bytes_in: AtomicU64,
    /// Bytes to relays, without TLS and lower layers.
    pub bytes_out: AtomicU64,
}
