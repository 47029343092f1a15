//! Whether the other side is still there, told by bytes.
//!
//! Two things prove a peer alive: a byte from it, and room in a send buffer that was full, because
//! its TCP has taken what was in the way. The second keeps a long upload over a slow network from
//! looking like death, where the answers to pings wait behind the upload.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::status::Traffic;

/// Why the other side is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nothing came from it.
    Silent,
    /// It took nothing.
    Stalled,
}

#[derive(Debug)]
struct ActivityState {
    heard: Instant,
    drained: Instant,
    /// Since when a write waits.
    blocked: Option<Instant>,
    /// Reading waits for this agent itself, so silence says nothing.
    paused: bool,
}

impl ActivityState {
    /// What is known at `now`: the loss, or when to look again.
    fn next_check(&self, now: Instant, dead_after: Duration) -> Result<Instant, Lost> {
        let moved = self.heard.max(self.drained);
        let quiet_until = if self.paused { now + dead_after } else { moved + dead_after };
        let blocked_until = self.blocked.map(|since| since.max(self.drained) + dead_after);
        if quiet_until <= now {
            return Err(Lost::Silent);
        }
        match blocked_until {
            Some(until) if until <= now => Err(Lost::Stalled),
            Some(until) => Ok(until.min(quiet_until)),
            None => Ok(quiet_until),
        }
    }
}

/// What was seen of the other side.
#[derive(Debug)]
pub struct Activity {
    state: Mutex<ActivityState>,
}

impl Activity {
    pub fn new() -> Self {
        let now = Instant::now();
        let state = ActivityState { heard: now, drained: now, blocked: None, paused: false };
        Self { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` while the peer's silence does not count, because the pump does not read.
    pub async fn not_reading<T>(&self, work: impl Future<Output = T>) -> T {
        self.state().paused = true;
        let result = work.await;
        let mut state = self.state();
        state.paused = false;
        state.heard = Instant::now();
        result
    }

    /// Returns when the peer is lost.
    pub async fn until_lost(&self, dead_after: Duration) -> Lost {
        loop {
            let next = self.state().next_check(Instant::now(), dead_after);
            match next {
                Ok(look_again) => sleep_until(look_again).await,
                Err(lost) => return lost,
            }
        }
    }

    fn wrote(&self, done: bool) {
        let mut state = self.state();
        match (done, state.blocked) {
            (true, Some(_)) => {
                state.blocked = None;
                state.drained = Instant::now();
            }
            (false, None) => state.blocked = Some(Instant::now()),
            (true, None) | (false, Some(_)) => {}
        }
    }
}

/// A stream that notes what passes.
#[derive(Debug)]
pub struct Observed<S> {
    inner: S,
    activity: Arc<Activity>,
    traffic: Arc<Traffic>,
}

impl<S> Observed<S> {
    pub fn new(inner: S, activity: Arc<Activity>, traffic: Arc<Traffic>) -> Self {
        Self { inner, activity, traffic }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let bytes = buffer.filled().len().saturating_sub(before);
        if bytes > 0 {
            self.activity.state().heard = Instant::now();
            self.traffic.bytes_in.fetch_add(bytes as u64, Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.activity.wrote(written.is_ready());
        if let Poll::Ready(Ok(bytes)) = &written {
            self.traffic.bytes_out.fetch_add(*bytes as u64, Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.activity.wrote(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(25);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn silence_is_death_unless_the_agent_does_not_read() {
        let start = Instant::now();
        let mut state =
            ActivityState { heard: start, drained: start, blocked: None, paused: false };
        assert_eq!(state.next_check(after(start, 24), DEAD_AFTER), Ok(after(start, 25)));
        assert_eq!(state.next_check(after(start, 25), DEAD_AFTER), Err(Lost::Silent));
        state.paused = true;
        assert_eq!(state.next_check(after(start, 90), DEAD_AFTER), Ok(after(start, 115)));
    }

    #[test]
    fn an_upload_that_goes_on_is_life_and_one_that_stands_is_not() {
        let start = Instant::now();
        let mut state = ActivityState {
            heard: start,
            drained: after(start, 20),
            blocked: Some(after(start, 21)),
            paused: false,
        };
        assert_eq!(state.next_check(after(start, 30), DEAD_AFTER), Ok(after(start, 45)));
        // A peer that talks and takes nothing is lost as well, even while it is not read.
        state.heard = after(start, 45);
        assert_eq!(state.next_check(after(start, 46), DEAD_AFTER), Err(Lost::Stalled));
        state.paused = true;
        assert_eq!(state.next_check(after(start, 46), DEAD_AFTER), Err(Lost::Stalled));
    }
}
