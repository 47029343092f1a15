//! One session with the relay, as everything that sends sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::bound::{FrameBound, Lengths, Refused};
use super::guard::{self, FrameFault};
use protocol::message::MAX_FRAME_BYTES;

/// Most frames that wait to be written.
const QUEUE_FRAMES: usize = 1024;
/// Most bytes that wait to be written, in units of [`UNIT`]: some of the longest frames.
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
    /// The frame would harm the relay, and would in every session.
    #[error(transparent)]
    Refused(#[from] FrameFault),
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
    queue: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    marks: Arc<Marks>,
    confirmed: watch::Receiver<u64>,
}

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
    written: Option<oneshot::Sender<Sent>>,
    room: OwnedSemaphorePermit,
}

impl Session {
    /// Queues a text frame; returns when it has been written to the socket. Nothing is sent twice
    /// or out of order; whether the relay has it, [`Self::confirmed`] says. Once it is queued,
    /// giving up waiting does not call it back.
    pub async fn send(&self, text: String) -> Result<Sent, SendError> {
        let text = self.checked(text).await?;
        let (written, receipt) = oneshot::channel();
        self.queue(text, Some(written)).await?;
        Ok(receipt.await.map_err(|_| SessionOver)?)
    }

    /// Queues a text frame, and returns as soon as there is room for it.
    pub(super) async fn post(&self, text: String) -> Result<(), SendError> {
        let text = self.checked(text).await?;
        Ok(self.queue(text, None).await?)
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
    pub(super) fn refused(&self) -> Option<Refused> {
        self.shared.marks.lengths.refused()
    }

    /// Whether nothing can be sent any more.
    pub fn is_over(&self) -> bool {
        self.shared.queue.is_closed()
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

    async fn queue(
        &self,
        text: String,
        written: Option<oneshot::Sender<Sent>>,
    ) -> Result<(), SessionOver> {
        let units = text.len().div_ceil(UNIT).clamp(1, QUEUE_UNITS) as u32;
        let room = self.shared.room.clone().acquire_many_owned(units).await;
        let room = room.map_err(|_| SessionOver)?;
        let outgoing = Outgoing { text, written, room };
        self.shared.queue.send(outgoing).await.map_err(|_| SessionOver)
    }
}

/// The end of a session that writes to the socket. The session is over when this is gone.
#[derive(Debug)]
pub struct Outbox {
    number: u64,
    pub queue: mpsc::Receiver<Outgoing>,
    room: Arc<Semaphore>,
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
    let (queue, queued) = mpsc::channel(QUEUE_FRAMES);
    let (confirmed, confirmations) = watch::channel(0);
    let room = Arc::new(Semaphore::new(QUEUE_UNITS));
    let marks = Arc::new(Marks::default());
    let shared = SessionCore {
        number,
        bound,
        queue,
        room: room.clone(),
        marks: marks.clone(),
        confirmed: confirmations,
    };
    let session = Session { id: id.into(), shared: Arc::new(shared) };
    let outbox = Outbox { number, queue: queued, room, marks: marks.clone(), begun: 0, written: 0 };
    (session, outbox, Confirmations { marks, confirmed })
}

impl Outbox {
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
                let _ = written.send(Sent { session: self.number, count: self.written });
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
        self.room.close();
    }
}

/// What is left of a frame while it is being written.
#[derive(Debug)]
pub struct Receipt {
    written: Option<oneshot::Sender<Sent>>,
    _room: OwnedSemaphorePermit,
}

impl Outgoing {
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
