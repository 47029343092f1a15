//! A session at work: frames in, frames out, pings, until one of them ends it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant as Moment, MissedTickBehavior, interval_at, sleep, sleep_until};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::activity::{Activity, Lost};
use super::end::SessionEnd;
use super::handshake::Socket;
use super::session::{Confirmations, Outbox, Outgoing, SendError, Session};
use super::{Handler, LinkConfig, refusal, stopped};
use protocol::Timestamp;
use protocol::message::{Frame, HealthPong, Inbound, RelayPing, classify};

/// Most frames that are written before those who wait for them are told.
const BATCH_FRAMES: usize = 256;
/// Most bytes of such a batch, but for its last frame. An acknowledgement waits for one at most.
const BATCH_BYTES: usize = 64 << 10;

/// What the writing end does next.
enum Next {
    Write(Outgoing),
    Confirm,
    Ping,
    Stop,
}

/// What a session at work needs.
pub struct Pump<'a, H> {
    pub config: &'a LinkConfig,
    pub endpoint_id: &'a str,
    pub handler: &'a Arc<H>,
    pub session: &'a Session,
    pub activity: Arc<Activity>,
    /// As many as handlers may run at once, of all sessions.
    pub slots: &'a Arc<Semaphore>,
}

impl<H: Handler> Pump<'_, H> {
    /// Runs the session to its end, and gives the socket back to be closed.
    pub async fn run(
        &self,
        socket: Socket,
        outbox: Outbox,
        confirmations: Confirmations,
        stop: watch::Receiver<bool>,
    ) -> (Option<Socket>, SessionEnd) {
        let (mut sink, mut stream) = socket.split();
        let limit = self.config.dead_after;
        // Reading comes first: what has arrived must count before silence is measured.
        let end = tokio::select! {
            biased;
            end = self.read(&mut stream, confirmations) => end,
            end = self.write(&mut sink, outbox, stop) => end,
            lost = self.activity.until_lost(limit) => match lost {
                Lost::Silent => SessionEnd::Silent { limit },
                Lost::Stalled => SessionEnd::Stalled { limit },
            },
            () = self.session.unconfirmed_for(self.config.receipt_within) => {
                SessionEnd::Unconfirmed { limit: self.config.receipt_within }
            }
        };
        (sink.reunite(stream).ok(), end)
    }

    async fn read(
        &self,
        stream: &mut SplitStream<Socket>,
        confirmations: Confirmations,
    ) -> SessionEnd {
        loop {
            let message = match stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return SessionEnd::of_error(error),
                None => return SessionEnd::Broken { detail: "it hung up".to_owned() },
            };
            let received = Instant::now();
            match message {
                Message::Text(text) => {
                    self.config.traffic.frames_in.fetch_add(1, Relaxed);
                    if let Err(SendError::Over(over)) = self.text(text.as_str(), received).await {
                        return SessionEnd::Broken { detail: over.to_string() };
                    }
                }
                Message::Binary(_) => {
                    self.config.traffic.frames_in.fetch_add(1, Relaxed);
                    let refused = self.refuse("", "binary frames are not part of the protocol");
                    if let Err(SendError::Over(over)) = refused.await {
                        return SessionEnd::Broken { detail: over.to_string() };
                    }
                }
                Message::Pong(payload) => confirmations.pong(&payload),
                // The answer to a ping goes out by itself.
                Message::Ping(_) | Message::Frame(_) => {}
                Message::Close(frame) => return SessionEnd::of_close(frame.as_ref()),
            }
        }
    }

    /// Takes a text frame to where it belongs. An error is about what was answered.
    async fn text(&self, text: &str, received: Instant) -> Result<(), SendError> {
        match classify(text) {
            Inbound::Envelope => {
                self.handle(text.to_owned(), received).await;
                Ok(())
            }
            Inbound::HealthPing(ping) => self.answer(ping).await,
            Inbound::HealthPong(_) => Ok(()),
            Inbound::Error(error) => {
                let (code, message) = (error.code, error.message);
                tracing::warn!(?code, ?message, "the relay reports an error");
                Ok(())
            }
            Inbound::Ack(_) => self.refuse(text, "the session has begun already").await,
            Inbound::Unknown { kind: Some(kind) } => {
                self.refuse(text, &format!("there are no frames of type {kind:?}")).await
            }
            Inbound::Unknown { kind: None } => self.refuse(text, "the frame has no type").await,
            Inbound::Malformed { reason } => self.refuse(text, &reason).await,
        }
    }

    /// Starts the handler, once there is a slot for it.
    async fn handle(&self, text: String, received: Instant) {
        let slot = self.activity.not_reading(self.slots.clone().acquire_owned()).await;
        let (handler, session) = (self.handler.clone(), self.session.clone());
        tokio::spawn(async move {
            handler.frame(session, text, received).await;
            drop(slot);
        });
    }

    async fn answer(&self, ping: RelayPing) -> Result<(), SendError> {
        let (agent_health, sandbox_state) = self.handler.health();
        let answer = HealthPong {
            session_id: self.session.id.to_string(),
            ts: Timestamp::now(),
            ping_id: ping.ping_id,
            agent_health,
            sandbox_state,
            endpoint_id: self.endpoint_id.to_owned(),
        };
        self.activity.not_reading(self.session.post(answer.to_text())).await
    }

    /// Answers a frame that is nothing this agent knows.
    async fn refuse(&self, text: &str, why: &str) -> Result<(), SendError> {
        self.config.traffic.frames_refused.fetch_add(1, Relaxed);
        tracing::warn!(why, "a frame of the relay is refused");
        let answer = async {
            let command_id = self.handler.reportable_command_id(refusal::command_id(text)).await;
            let event = refusal::event(command_id, why, self.endpoint_id, &self.session.id);
            self.session.post(event.to_text()).await
        };
        self.activity.not_reading(answer).await
    }

    /// Writes until something ends it; when told to stop, what is queued by then and no longer than
    /// the limit for that.
    async fn write(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        outbox: Outbox,
        stop: watch::Receiver<bool>,
    ) -> SessionEnd {
        let given_up = async {
            stopped(stop.clone()).await;
            sleep(self.config.drain).await;
        };
        tokio::select! {
            written = self.write_until_stopped(sink, outbox, stop.clone()) => match written {
                Ok(()) => SessionEnd::Stopped,
                Err(error) => SessionEnd::of_error(error),
            },
            () = given_up => {
                tracing::warn!("the relay did not take all frames before the agent stopped");
                SessionEnd::StoppedShort
            }
        }
    }

    async fn write_until_stopped(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        mut outbox: Outbox,
        stop: watch::Receiver<bool>,
    ) -> WsResult {
        let stop = stopped(stop);
        tokio::pin!(stop);
        let every = self.config.ping_every;
        let mut heartbeat = interval_at(Moment::now() + every, every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let demand = outbox.demand();
        let mut soon: Option<Moment> = None;
        loop {
            let next = tokio::select! {
                () = &mut stop => Next::Stop,
                Some(first) = outbox.next() => Next::Write(first),
                () = demand.grows() => Next::Confirm,
                () = sleep_until(soon.unwrap_or_else(Moment::now)), if soon.is_some() => Next::Ping,
                _ = heartbeat.tick() => Next::Ping,
            };
            match next {
                Next::Stop => break,
                Next::Write(first) => self.write_batch(sink, &mut outbox, first).await?,
                Next::Confirm => {}
                Next::Ping => ping(sink, &outbox).await?,
            }
            soon = match soon {
                _ if !outbox.wants_ping() => None,
                None => Some(Moment::now() + self.config.confirm_after),
                planned => planned,
            };
        }
        outbox.close();
        while let Some(first) = outbox.next().await {
            self.write_batch(sink, &mut outbox, first).await?;
        }
        Ok(())
    }

    /// Writes a frame and what waits behind it, then tells those who wait for them.
    async fn write_batch(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        outbox: &mut Outbox,
        first: Outgoing,
    ) -> WsResult {
        let mut receipts = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(outgoing) = next {
            let (text, receipt) = outgoing.into_parts();
            bytes += text.len();
            outbox.begins(text.len());
            sink.feed(Message::text(text)).await?;
            receipts.push(receipt);
            let more = bytes < BATCH_BYTES && receipts.len() < BATCH_FRAMES;
            next = if more { outbox.next_waiting() } else { None };
        }
        sink.flush().await?;
        self.config.traffic.frames_out.fetch_add(receipts.len() as u64, Relaxed);
        outbox.wrote(receipts);
        Ok(())
    }
}

type WsResult = Result<(), tokio_tungstenite::tungstenite::Error>;

async fn ping(sink: &mut SplitSink<Socket, Message>, outbox: &Outbox) -> WsResult {
    sink.send(Message::Ping(Bytes::copy_from_slice(&outbox.ping()))).await
}
