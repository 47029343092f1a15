//! One session with the relay, as everything that sends sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::bound::{FrameBound, Lengths, RefusedLengths};
use super::guard::{self, FrameFault};
use protocol::message::MAX_FRAME_BYTES;

/// Most frames of a lane that wait to be written.
const QUEUE_FRAMES: usize = 1024;
/// Most bytes of a lane that wait to be written, in units of [`UNIT`]: some of the longest frames.
const QUEUE_UNITS: usize = 4 * MAX_FRAME_BYTES / UNIT;
/// Bytes are counted in these.
const UNIT: usize = 1024;
/// From this many bytes on, a frame is parsed off the threads that serve the whole agent.
const LONG_FRAME: usize = 128 << 10;

/// Distinguishes the sessions of this process, so that no receipt counts in another.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session with the relay is over; what it has not confirmed belongs into the next one")]
pub struct SessionOver;

/// Why a frame was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The session is over.
    #[error(transparent)]
    Over(#[from] SessionOver),
    /// Its time was over before it could be written, and it was not.
    #[error("the frame could not be written in time")]
    Late,
    /// The frame would harm the relay, and would in every session.
    #[error(transparent)]
    Refused(#[from] FrameFault),
}

impl Sent {
    /// Frames of the session up to and with this one.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Receipt of a frame that was written to the socket, good in its session only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    session: u64,
    /// Frames of the session up to and with this one.
    count: u64,
}

/// One session with the relay. Cheap to clone; holding one does not keep the connection open.
#[derive(Debug, Clone)]
pub struct Session {
    /// The relay's id for it, which every frame carries.
    pub id: Arc<str>,
    shared: Arc<SessionCore>,
}

#[derive(Debug)]
struct SessionCore {
    number: u64,
    bound: FrameBound,
    /// Acknowledgements, errors, progress and health: they go before results.
    urgent: Lane,
    results: Lane,
    marks: Arc<Marks>,
    confirmed: watch::Receiver<u64>,
}

/// Frames that are written in their order.
#[derive(Debug)]
struct Lane {
    queue: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
}

impl Lane {
    fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, queued) = mpsc::channel(QUEUE_FRAMES);
        (Self { queue, room: Arc::new(Semaphore::new(QUEUE_UNITS)) }, queued)
    }

    async fn push(
        &self,
        text: String,
        before: Option<Instant>,
        written: Option<oneshot::Sender<Result<Sent, Late>>>,
    ) -> Result<(), SessionOver> {
        let units = text.len().div_ceil(UNIT).clamp(1, QUEUE_UNITS) as u32;
        let room = self.room.clone().acquire_many_owned(units).await;
        let room = room.map_err(|_| SessionOver)?;
        let outgoing = Outgoing { text, before, written, room };
        self.queue.send(outgoing).await.map_err(|_| SessionOver)
    }
}

/// A frame was not written because its time was over.
#[derive(Debug)]
struct Late;

/// How far the writing end is, in frames of the session.
#[derive(Debug, Default)]
struct Marks {
    /// Up to here a sender waits for the relay's confirmation.
    wanted: AtomicU64,
    /// Told when `wanted` grows.
    wake: Notify,
    /// The last ping covers up to here.
    pinged: AtomicU64,
    /// Of frames that were written.
    lengths: Lengths,
}

/// A frame on its way to the socket.
#[derive(Debug)]
pub struct Outgoing {
    pub text: String,
    /// From then on it is not written any more.
    before: Option<Instant>,
    written: Option<oneshot::Sender<Result<Sent, Late>>>,
    room: OwnedSemaphorePermit,
}

impl Session {
    /// Queues a text frame; returns when it has been written to the socket. Nothing is sent twice;
    /// whether the relay has it, [`Self::confirmed`] says. Once it is queued, giving up waiting does not
    /// call it back. Frames keep their order, but go before all results that wait.
    ///
    /// # Errors
    ///
    /// The session is over, or the frame would harm the relay.
    pub async fn send(&self, text: String) -> Result<Sent, SendError> {
        self.write(&self.shared.urgent, text, None).await
    }

    /// Like [`send`](Self::send), for a frame that is worth nothing later.
    ///
    /// # Errors
    ///
    /// The session is over, the frame would harm the relay, or it could not be written before that
    /// moment.
    pub async fn send_before(&self, text: String, before: Instant) -> Result<Sent, SendError> {
        self.write(&self.shared.urgent, text, Some(before)).await
    }

    /// Like [`send`](Self::send), for a result: it lets all other frames go first.
    ///
    /// # Errors
    ///
    /// The session is over, or the frame would harm the relay.
    pub async fn send_result(&self, text: String) -> Result<Sent, SendError> {
        self.write(&self.shared.results, text, None).await
    }

    async fn write(
        &self,
        lane: &Lane,
        text: String,
        before: Option<Instant>,
    ) -> Result<Sent, SendError> {
        let text = self.checked(text).await?;
        let (written, receipt) = oneshot::channel();
        lane.push(text, before, Some(written)).await?;
        match receipt.await {
            Ok(Ok(sent)) => Ok(sent),
            Ok(Err(Late)) => Err(SendError::Late),
            Err(_) => Err(SessionOver.into()),
        }
    }

    /// Queues a text frame, and returns as soon as there is room for it.
    pub(super) async fn post(&self, text: String) -> Result<(), SendError> {
        let text = self.checked(text).await?;
        Ok(self.shared.urgent.push(text, None, None).await?)
    }

    /// Returns once the relay has answered a ping sent after that frame: it has read everything up
    /// to it. Must not be waited for in [`Handler::frame`](super::Handler::frame): when all of those
    /// wait, the answer is not read.
    pub async fn confirmed(&self, sent: Sent) -> Result<(), SessionOver> {
        if sent.session != self.shared.number {
            return Err(SessionOver);
        }
        let marks = &self.shared.marks;
        if marks.wanted.fetch_max(sent.count, SeqCst) < sent.count {
            marks.wake.notify_one();
        }
        let mut confirmed = self.shared.confirmed.clone();
        confirmed.wait_for(|count| *count >= sent.count).await.map_err(|_| SessionOver)?;
        Ok(())
    }

    /// The frame that a relay refuses which closes the session now because of its length.
    pub(super) fn refused(&self) -> Option<RefusedLengths> {
        self.shared.marks.lengths.refused()
    }

    /// Whether nothing can be sent any more.
    pub fn is_over(&self) -> bool {
        self.shared.urgent.queue.is_closed()
    }

    /// Returns when the relay has confirmed nothing for so long although a sender waits for it.
    pub(super) async fn unconfirmed_for(&self, limit: Duration) {
        let mut confirmed = self.shared.confirmed.clone();
        loop {
            let is_wanted = self.shared.marks.wanted.load(SeqCst) > *confirmed.borrow_and_update();
            match timeout(limit, confirmed.changed()).await {
                // The session is over already.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) if is_wanted => return,
                Ok(Ok(())) | Err(_) => {}
            }
        }
    }

    async fn checked(&self, text: String) -> Result<String, SendError> {
        let (id, bound) = (self.id.clone(), self.shared.bound.bytes());
        let check = move |text: String| guard::check(&text, &id, bound).map(|()| text);
        let checked = if text.len() < LONG_FRAME {
            check(text)
        } else {
            // It only fails when the runtime is going down, and the session with it.
            tokio::task::spawn_blocking(move || check(text)).await.map_err(|_| SessionOver)?
        };
        checked.map_err(|fault| {
            tracing::error!(%fault, "a frame was held back");
            fault.into()
        })
    }
}

/// The end of a session that writes to the socket. The session is over when this is gone.
#[derive(Debug)]
pub struct Outbox {
    number: u64,
    urgent: mpsc::Receiver<Outgoing>,
    results: mpsc::Receiver<Outgoing>,
    rooms: [Arc<Semaphore>; 2],
    marks: Arc<Marks>,
    begun: u64,
    written: u64,
}

/// The end of a session that hears the answers to pings.
#[derive(Debug)]
pub struct Confirmations {
    marks: Arc<Marks>,
    confirmed: watch::Sender<u64>,
}

/// A session and the two ends that serve it.
pub fn open(id: &str, bound: FrameBound) -> (Session, Outbox, Confirmations) {
    let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
    let ((urgent, urgent_queued), (results, results_queued)) = (Lane::new(), Lane::new());
    let rooms = [Arc::clone(&urgent.room), Arc::clone(&results.room)];
    let (confirmed, confirmations) = watch::channel(0);
    let marks = Arc::new(Marks::default());
    let shared = SessionCore {
        number,
        bound,
        urgent,
        results,
        marks: marks.clone(),
        confirmed: confirmations,
    };
    let session = Session { id: id.into(), shared: Arc::new(shared) };
    let outbox = Outbox {
        number,
        urgent: urgent_queued,
        results: results_queued,
        rooms,
        marks: marks.clone(),
        begun: 0,
        written: 0,
    };
    (session, outbox, Confirmations { marks, confirmed })
}

impl Outbox {
    /// The next frame to write; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Outgoing> {
        loop {
            let outgoing = tokio::select! {
                biased;
                Some(urgent) = self.urgent.recv() => urgent,
                Some(result) = self.results.recv() => result,
                else => return None,
            };
            if let Some(outgoing) = outgoing.in_time() {
                return Some(outgoing);
            }
        }
    }

    /// The next frame to write, if one waits.
    pub fn next_waiting(&mut self) -> Option<Outgoing> {
        loop {
            let outgoing = self.urgent.try_recv().or_else(|_| self.results.try_recv()).ok()?;
            if let Some(outgoing) = outgoing.in_time() {
                return Some(outgoing);
            }
        }
    }

    /// Takes no more frames; those that wait can still be written.
    pub fn close(&mut self) {
        self.urgent.close();
        self.results.close();
    }

    /// Notes that a frame of this length goes to the socket now.
    pub fn begins(&mut self, bytes: usize) {
        self.begun += 1;
        self.marks.lengths.wrote(self.begun, bytes);
    }

    /// Notes that this frame, and all before it, are in the socket.
    pub fn wrote(&mut self, receipts: impl IntoIterator<Item = Receipt>) {
        for receipt in receipts {
            self.written += 1;
            if let Some(written) = receipt.written {
                // The sender may have stopped waiting for the receipt.
                let _ = written.send(Ok(Sent { session: self.number, count: self.written }));
            }
        }
    }

    /// The payload of a ping sent now: how many frames came before it, big-endian.
    pub fn ping(&self) -> [u8; 8] {
        self.marks.pinged.store(self.written, SeqCst);
        self.written.to_be_bytes()
    }

    /// What the frames' senders wait for.
    pub fn demand(&self) -> Demand {
        Demand { marks: self.marks.clone() }
    }

    /// Whether a ping sent now would bring a confirmation that a sender waits for.
    pub fn wants_ping(&self) -> bool {
        self.marks.wanted.load(SeqCst) > self.marks.pinged.load(SeqCst)
    }
}

/// What the frames' senders wait for.
#[derive(Debug)]
pub struct Demand {
    marks: Arc<Marks>,
}

impl Demand {
    /// Returns when a sender began to wait for a confirmation.
    pub async fn grows(&self) {
        self.marks.wake.notified().await;
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.rooms.iter().for_each(|room| room.close());
    }
}

/// What is left of a frame while it is being written.
#[derive(Debug)]
pub struct Receipt {
    written: Option<oneshot::Sender<Result<Sent, Late>>>,
    _room: OwnedSemaphorePermit,
}

impl Outgoing {
    /// The frame, unless its time is over; then its sender is told.
    fn in_time(self) -> Option<Self> {
        if self.before.is_none_or(|before| Instant::now() < before) {
            return Some(self);
        }
        if let Some(written) = self.written {
            // The sender may have stopped waiting.
            let _ = written.send(Err(Late));
        }
        None
    }

    pub fn into_parts(self) -> (String, Receipt) {
        (self.text, Receipt { written: self.written, _room: self.room })
    }
}

impl Confirmations {
    /// Takes the payload of a pong. One that answers no ping of this session is nothing.
    pub fn pong(&self, payload: &[u8]) {
        let Ok(count) = payload.try_into().map(u64::from_be_bytes) else {
            return;
        };
        if count <= self.marks.pinged.load(SeqCst) {
            self.marks.lengths.confirmed(count);
            self.confirmed.send_if_modified(|confirmed| {
                let more = count > *confirmed;
                *confirmed = count.max(*confirmed);
                more
            });
        }
    }
}

#[cfg(test)]
mod tests;
