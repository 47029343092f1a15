//! Host side of the control connection: requests go out, replies find their callers.
//!
//! There is no reader thread. Of the callers that wait for a reply one at a time reads, for all
//! of them: with a single request in flight the thread that sent it also receives the reply, and
//! no other thread has to wake up. A caller that leaves hands the reading to another one.

mod collector;
mod confirmation;
mod decode;
mod error;
mod frame_reader;
mod link;
mod pending;

pub use collector::Output;
pub use error::{ChannelError, EvidenceFault};
pub use frame_reader::FrameReader;
pub use link::{ReadLink, WriteLink};

use std::io::ErrorKind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use guest::framing::{FrameError, MAX_FRAME_BYTES, encode_frame};
use guest::wire::{GuestQuery, GuestResponse, HostMessage, ToolDispatch};

use super::call::PartialOutput;
use collector::Collector;
pub use pending::ChannelCounters;
use pending::{Reply, Request, Table};

/// How long a guest may pause inside a frame.
pub const STALL_LIMIT: Duration = Duration::from_secs(30);
/// How long a look at the connection may take while the guest keeps talking.
const CATCH_UP_LIMIT: Duration = Duration::from_millis(5);

/// The control connection. Every method can be called from any number of threads at once.
pub struct Channel {
    table: Mutex<Table>,
    writer: Mutex<Box<dyn WriteLink>>,
}

/// Why a command failed, and what it had written until then.
#[derive(Debug)]
pub struct CommandFailure {
    /// Why.
    pub error: ChannelError,
    /// What it had written, as far as its evidence was good.
    pub partial: Box<PartialOutput>,
}

impl Channel {
    /// A channel over the two halves of an established stream. `stall_limit`: how long the guest
    /// may pause inside a frame.
    pub fn new(
        reader: impl ReadLink + 'static,
        writer: impl WriteLink + 'static,
        stall_limit: Duration,
    ) -> Self {
        let reader = FrameReader::new(reader, stall_limit);
        Self { table: Mutex::new(Table::new(reader)), writer: Mutex::new(Box::new(writer)) }
    }

    /// Runs a command: sends it, sees that the guest confirms its freshness, checks its evidence as
    /// it arrives, and returns what it wrote. At most `output_bytes` of each output stream are kept.
    pub fn dispatch(
        &self,
        dispatch: ToolDispatch,
        output_bytes: usize,
        until: Instant,
    ) -> Result<Output, CommandFailure> {
        let id = dispatch.command_id.clone();
        let collector = Collector::new(&id, &dispatch.freshness, output_bytes);
        let request = Request::Command(Box::new(collector));
        match self.exchange(&id, request, &HostMessage::ToolDispatch(dispatch), until)? {
            Reply::Output(output) => Ok(*output),
            Reply::Answer(_) => Err(wrong_reply(&id).into()),
        }
    }

    /// Asks the guest about itself.
    pub fn query(&self, query: GuestQuery, until: Instant) -> Result<GuestResponse, ChannelError> {
        let (id, kind) = (query.query_id.clone(), query.query_kind);
        let message = HostMessage::GuestQuery(query);
        answer(&id, self.exchange(&id, Request::Query(kind), &message, until))
    }

    /// Asks the guest several things about itself in one go: the questions travel together, so that
    /// the guest wakes up once. The outcomes are in the order of the questions.
    pub fn query_all(
        &self,
        queries: Vec<GuestQuery>,
        until: Instant,
    ) -> Vec<Result<GuestResponse, ChannelError>> {
        let ids: Vec<_> = queries.iter().map(|query| query.query_id.clone()).collect();
        let (mut frames, mut registered) = (Vec::new(), 0);
        let sent = queries.into_iter().zip(&ids).try_for_each(|(query, id)| {
            let request = Request::Query(query.query_kind);
            frames.extend(encode(&HostMessage::GuestQuery(query))?);
            self.lock().register(id, request)?;
            registered += 1;
            Ok(())
        });
        let id = ids.last().map(String::as_str).unwrap_or_default();
        let sent = sent.and_then(|()| {
            self.send(id, &frames, until).inspect_err(|error| self.note_unsent(error))
        });
        let Err(error) = sent else {
            return ids.iter().map(|id| answer(id, self.await_reply(id, until))).collect();
        };
        let mut table = self.lock();
        for id in ids.iter().take(registered) {
            table.withdraw(id, error.clone());
        }
        vec![Err(error); ids.len()]
    }

    /// Takes in what arrived while no caller was waiting. `None` while the connection works.
    pub fn failure(&self) -> Option<ChannelError> {
        let mut table = self.lock();
        if let Some(reader) = table.reader.take() {
            drop(table);
            let now = Instant::now();
            table = self.read_as_leader(reader, None, now, now + CATCH_UP_LIMIT);
        }
        table.failure().cloned()
    }

    /// What was received and not wanted.
    pub fn counters(&self) -> ChannelCounters {
        self.lock().counters
    }

    fn exchange(
        &self,
        id: &str,
        request: Request,
        message: &HostMessage,
        until: Instant,
    ) -> Result<Reply, CommandFailure> {
        let frame = encode(message)?;
        self.lock().register(id, request)?;
        if let Err(error) = self.send(id, &frame, until) {
            self.note_unsent(&error);
            return Err(self.lock().withdraw(id, error));
        }
        self.await_reply(id, until)
    }

    /// A frame of which a part is on its way leaves a stream that cannot be used.
    fn note_unsent(&self, error: &ChannelError) {
        if !matches!(error, ChannelError::TimedOut { .. }) {
            self.lock().fail(error);
        }
    }

    /// Header and body go out as one piece: frames of several callers must not mix.
    fn send(&self, id: &str, frame: &[u8], until: Instant) -> Result<(), ChannelError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent = 0;
        while let Some(rest) = frame.get(sent..).filter(|rest| !rest.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A frame that was not begun leaves the stream as it was.
                if sent == 0 {
                    return Err(ChannelError::TimedOut { id: id.to_owned() });
                }
                writer.close();
                return Err(ChannelError::WriteStalled { sent });
            }
            match writer.limit_writes(left).and_then(|()| writer.write(rest)) {
                Ok(0) => return Err(closed("it takes no more bytes")),
                Ok(count) => sent += count,
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut
                    ) => {}
                Err(e) => return Err(closed(&e.to_string())),
            }
        }
        Ok(())
    }

    fn await_reply(&self, id: &str, until: Instant) -> Result<Reply, CommandFailure> {
        let mut table = self.lock();
        loop {
            if table.is_done(id) {
                return table.take(id);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let failure = table.withdraw(id, ChannelError::TimedOut { id: id.to_owned() });
                // This caller may have been woken to read.
                table.wake_a_reader();
                return Err(failure);
            }
            table = if let Some(reader) = table.reader.take() {
                drop(table);
                self.read_as_leader(reader, Some(id), until, until)
            } else {
                let wake = table.wake_of(id);
                wake.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    /// Reads for every caller: until the request `id` is done, nothing more came by `until`, or
    /// `limit` is over while more and more comes.
    fn read_as_leader(
        &self,
        mut reader: FrameReader,
        id: Option<&str>,
        until: Instant,
        limit: Instant,
    ) -> MutexGuard<'_, Table> {
        loop {
            let read = reader.next(until, decode::decode);
            let mut table = self.lock();
            let goes_on = match read {
                Ok(Some(frame)) => {
                    table.deliver(frame);
                    Instant::now() < limit
                }
                Ok(None) => false,
                Err(error) => {
                    table.fail(&error);
                    false
                }
            };
            if table.failure().is_some() {
                reader.close();
                return table;
            }
            if !goes_on || id.is_some_and(|id| table.is_done(id)) {
                table.reader = Some(reader);
                table.wake_a_reader();
                return table;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<ChannelError> for CommandFailure {
    fn from(error: ChannelError) -> Self {
        Self { error, partial: Box::default() }
    }
}

/// The answer to the query `id`, which a command's output is not.
fn answer(id: &str, reply: Result<Reply, CommandFailure>) -> Result<GuestResponse, ChannelError> {
    match reply.map_err(|failure| failure.error)? {
        Reply::Answer(response) => Ok(*response),
        Reply::Output(_) => Err(wrong_reply(id)),
    }
}

fn encode(message: &HostMessage) -> Result<Vec<u8>, ChannelError> {
    encode_frame(message).map_err(|e| match e {
        FrameError::TooLarge(size) => {
            ChannelError::OutboundTooLarge { size, limit: MAX_FRAME_BYTES }
        }
        e => ChannelError::Protocol { detail: e.to_string() },
    })
}

fn closed(detail: &str) -> ChannelError {
    ChannelError::Closed { detail: detail.to_owned() }
}

fn wrong_reply(id: &str) -> ChannelError {
    ChannelError::Protocol { detail: format!("it answered {id} with the wrong kind of reply") }
}

#[cfg(test)]
mod tests;
