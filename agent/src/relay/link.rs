//! The session with the relay, kept up for as long as the agent runs.
//!
//! [`run_link`] connects, says hello, hands commands to a [`Handler`] and starts over when the
//! session ends, after a wait that depends on how it ended. Frames that are no commands it answers
//! itself: none is met with silence, none ends the agent.

mod activity;
mod bound;
mod end;
mod guard;
mod handshake;
#[cfg(any(test, feature = "testing"))]
pub mod loopback;
mod pump;
mod refusal;
mod session;
mod status;

pub use bound::FrameBound;
pub use end::{Pause, SessionEnd};
pub use guard::FrameFault;
pub use session::{SendError, Sent, Session, SessionOver};
pub use status::{LinkStatus, Traffic};

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use self::handshake::{NotOpened, Opened, Socket};
use self::pump::Pump;
use super::backoff::{Backoff, chance};
use super::connect::Connector;
use super::url::RelayUrl;
use crate::keyholder::{KeyHolder, KeyHolderError};
use protocol::Timestamp;
use protocol::message::AgentHealth;
use protocol::message::WireState;

/// Most handlers that run at once; then reading stops until one is done.
pub const MAX_CONCURRENT_FRAMES: usize = 1024;
/// Longest time a connection takes to be closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the link does with what it receives.
pub trait Handler: Send + Sync + 'static {
    /// A session began. Comes before its first frame.
    fn connected(&self, session: Session);

    /// A `CommandEnvelope`, by its `type` alone. Up to [`MAX_CONCURRENT_FRAMES`] of these run at
    /// once; while so many do, nothing is read, and so nothing can be
    /// [`confirmed`](Session::confirmed): what waits for that belongs into a task of its own.
    /// They run on when their session ends.
    fn frame(
        self: &Arc<Self>,
        session: Session,
        text: String,
        received: Instant,
    ) -> impl Future<Output = ()> + Send;

    /// Whether a command of this id was taken before.
    fn is_known_command(&self, command_id: &str) -> impl Future<Output = bool> + Send;

    /// The command under which a refusal of something that names this one is answered: none where
    /// it was taken before, because a relay would take the answer for that command's end.
    fn reportable_command_id(
        &self,
        command_id: Option<String>,
    ) -> impl Future<Output = Option<String>> + Send {
        async {
            match command_id {
                Some(id) if self.is_known_command(&id).await => None,
                named => named,
            }
        }
    }

    /// A session is over. Its handlers may still run.
    fn disconnected(&self, session: &Session);

    /// How the agent is, for a relay that asks.
    fn health(&self) -> (AgentHealth, WireState);
}

/// How the link behaves.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// The relay.
    pub url: RelayUrl,
    /// What the hello says of this agent.
    pub agent_version: String,
    /// Longest time for the WebSocket handshake, and again for the answer to the hello.
    pub hello_timeout: Duration,
    /// How often the relay is pinged.
    pub ping_every: Duration,
    /// A peer that neither sent nor took a byte for so long is lost. With `ping_every` this makes
    /// the time in which a dead network is noticed.
    pub dead_after: Duration,
    /// Longest time until a ping is sent for a sender that waits for a confirmation.
    pub confirm_after: Duration,
    /// Longest time without any confirmation while a sender waits for one; then the session is over.
    pub receipt_within: Duration,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// A session that lived so long was a success: the waits begin anew.
    pub steady_after: Duration,
    /// The wait after another agent took the session over; doubles each time.
    pub replaced_pause: Duration,
    /// The longest of these waits, and of those for a relay that has too many connections.
    pub replaced_most: Duration,
    /// Longest time to write what is queued when the agent stops.
    pub drain: Duration,
    /// The longest frame that the relay is sent.
    pub frame_bound: FrameBound,
    /// Counts what passes.
    pub traffic: Arc<Traffic>,
}

impl LinkConfig {
    /// The usual: pings every 10 s, lost after 25 s, waits of 1 to 60 s, a minute to 15 minutes
    /// after being replaced.
    pub fn new(url: RelayUrl, agent_version: impl Into<String>) -> Self {
        Self {
            url,
            agent_version: agent_version.into(),
            hello_timeout: Duration::from_secs(10),
            ping_every: Duration::from_secs(10),
            dead_after: Duration::from_secs(25),
            confirm_after: Duration::from_millis(20),
            receipt_within: Duration::from_secs(30),
            backoff: Backoff::default(),
            steady_after: Duration::from_secs(30),
            replaced_pause: Duration::from_secs(60),
            replaced_most: Duration::from_secs(15 * 60),
            drain: Duration::from_secs(5),
            frame_bound: FrameBound::default(),
            traffic: Arc::default(),
        }
    }
}

/// Why the link gave up.
#[derive(Debug)]
pub enum LinkEnd {
    /// It was told to stop.
    Stopped,
    /// Without the key there is no session ever again in this process.
    KeyHolderLost(KeyHolderError),
}

/// Keeps a session with the relay until `stop` is true or its sender is gone. `status` always has
/// what the link is doing.
pub async fn run_link<H: Handler>(
    config: LinkConfig,
    connector: Arc<Connector>,
    key_holder: Arc<KeyHolder>,
    handler: Arc<H>,
    stop: watch::Receiver<bool>,
    status: watch::Sender<LinkStatus>,
) -> LinkEnd {
    let link = Link {
        slots: Arc::new(Semaphore::new(MAX_CONCURRENT_FRAMES)),
        config,
        connector,
        key_holder,
        handler,
        status,
    };
    let mut patience = Patience::default();
    loop {
        let (end, lived) = match link.attempt(&stop).await {
            Ok(attempt) => attempt,
            Err(error) => return LinkEnd::KeyHolderLost(error),
        };
        if matches!(end, SessionEnd::Stopped | SessionEnd::StoppedShort) {
            link.status.send_replace(LinkStatus::Stopped);
            return LinkEnd::Stopped;
        }
        let wait = patience.after(&end, lived, &link.config, chance());
        link.tell(&end, wait, patience.failures);
        tokio::select! {
            () = stopped(stop.clone()) => {
                link.status.send_replace(LinkStatus::Stopped);
                return LinkEnd::Stopped;
            }
            () = sleep(wait) => {}
        }
    }
}

struct Link<H> {
    config: LinkConfig,
    connector: Arc<Connector>,
    key_holder: Arc<KeyHolder>,
    handler: Arc<H>,
    status: watch::Sender<LinkStatus>,
    slots: Arc<Semaphore>,
}

impl<H: Handler> Link<H> {
    /// One attempt, and the session that comes of it: how it ended and how long it lived, if there was
    /// one.
    async fn attempt(
        &self,
        stop: &watch::Receiver<bool>,
    ) -> Result<(SessionEnd, Option<Duration>), KeyHolderError> {
        self.status.send_replace(LinkStatus::Connecting);
        let opened = tokio::select! {
            biased;
            () = stopped(stop.clone()) => return Ok((SessionEnd::Stopped, None)),
            opened = handshake::open(&self.config, &self.connector, &self.key_holder) => opened,
        };
        match opened {
            Ok(opened) => {
                let begun = Instant::now();
                let end = self.serve(opened, stop.clone()).await;
                Ok((end, Some(begun.elapsed())))
            }
            Err(NotOpened::Ended(end)) => Ok((end, None)),
            Err(NotOpened::KeyHolder(error)) => Err(error),
        }
    }

    async fn serve(&self, opened: Opened, stop: watch::Receiver<bool>) -> SessionEnd {
        let (session, outbox, confirmations) =
            session::open(&opened.session_id, self.config.frame_bound.clone());
        self.config.traffic.sessions.fetch_add(1, Relaxed);
        tracing::info!(session = %session.id, relay = %self.config.url, "connected");
        self.status.send_replace(LinkStatus::Connected {
            since: Timestamp::now(),
            session: session.id.clone(),
        });
        self.handler.connected(session.clone());
        let pump = Pump {
            config: &self.config,
            endpoint_id: &self.key_holder.public().endpoint_id,
            handler: &self.handler,
            session: &session,
            activity: opened.activity,
            slots: &self.slots,
        };
        let (socket, end) = pump.run(opened.socket, outbox, confirmations, stop).await;
        if let (SessionEnd::TooLong, Some(refused)) = (&end, session.refused()) {
            self.config.frame_bound.lower(&refused);
            let bound = self.config.frame_bound.bytes();
            tracing::warn!(bound, "frames are cut to this length from now on");
        }
        if let Some(socket) = socket {
            hang_up(socket, &end).await;
        }
        self.handler.disconnected(&session);
        end
    }

    fn tell(&self, end: &SessionEnd, wait: Duration, failures: u32) {
        let seconds = wait.as_secs_f32();
        tracing::warn!(reason = %end, "no session; next attempt in {seconds:.1} s");
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let until = Timestamp::now().plus_millis(wait_ms);
        let reason: Arc<str> = end.to_string().into();
        self.status.send_replace(match end.pause() {
            Pause::Replaced => LinkStatus::Replaced { until, reason },
            _ => LinkStatus::Waiting { until, reason, failures },
        });
    }
}

/// Failures so far, and the wait they make.
#[derive(Debug, Default)]
struct Patience {
    failures: u32,
    replaced: u32,
    busy: u32,
}

impl Patience {
    /// The wait after an attempt that ended so, at `chance` of its interval. `lived` is how long its
    /// session was there.
    fn after(
        &mut self,
        end: &SessionEnd,
        lived: Option<Duration>,
        config: &LinkConfig,
        chance: f64,
    ) -> Duration {
        let was_there = lived.is_some();
        let lived = lived.unwrap_or_default();
        if lived >= config.steady_after {
            self.failures = 0;
            self.busy = 0;
        }
        // Two agents that evict each other both live for the other's pause.
        if lived >= config.replaced_most.saturating_mul(4) {
            self.replaced = 0;
        }
        let backoff = &config.backoff;
        let doubled = |pause: Duration, times: u32| {
            let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
            pause.saturating_mul(factor).min(config.replaced_most)
        };
        match end.pause() {
            Pause::Usual | Pause::Restart => {
                self.failures = self.failures.saturating_add(1);
                let interval = backoff.interval(self.failures);
                let spread = was_there || end.pause() == Pause::Restart;
                let interval = if spread { interval.max(backoff.spread) } else { interval };
                backoff.within(interval, chance)
            }
            Pause::Longest => {
                self.failures = self.failures.saturating_add(1);
                backoff.within(backoff.most, chance)
            }
            Pause::Busy => {
                self.busy = self.busy.saturating_add(1);
                let interval = doubled(backoff.most, self.busy);
                // Long, however small the chance.
                backoff.spread + backoff.within(interval, chance)
            }
            Pause::Replaced => {
                self.replaced = self.replaced.saturating_add(1);
                let pause = doubled(config.replaced_pause, self.replaced - 1);
                // Never shorter, or both agents would meet again at once.
                pause + pause.mul_f64(chance)
            }
        }
    }
}

/// Returns when it is time to stop.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender is gone only when the agent is.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ends a connection for good: a Close frame or the answer to one, then the end of what we send,
/// then what the peer still sends is thrown away, so that closing the socket cannot destroy what
/// was sent. A socket that stays open behind a Close frame would harm relays.
async fn hang_up(mut socket: Socket, end: &SessionEnd) {
    if !end.is_orderly() {
        return;
    }
    let goodbye = async {
        let said = match end.close_frame() {
            Some(frame) => socket.close(Some(frame)).await,
            None => socket.flush().await,
        };
        let stream = socket.get_mut();
        if said.is_err() || stream.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; 4096];
        while let Ok(1..) = stream.read(&mut rest).await {}
    };
    // A peer that does not take it in time loses it.
    let _ = timeout(GOODBYE, goodbye).await;
}

#[cfg(test)]
mod tests;
