//! One WebSocket: its way in, its way out, and the faults that reach under it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, WebSocketConfig};

use crate::socket::SharedSocket;

/// Frames that may wait to be written.
const QUEUE: usize = 1 << 17;
/// Largest message read, as in relays in the field.
const MAX_BYTES: usize = 100 << 20;
/// How long a closing peer is waited for.
const CLOSING: Duration = Duration::from_secs(2);

pub(crate) type Socket = WebSocketStream<SharedSocket>;

/// What goes out.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(Message),
    /// Bytes that bypass the WebSocket framing.
    Bytes(Vec<u8>),
}

/// What a connection is to do besides its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    /// Leave what arrives unread. Pings go unanswered, and in time the peer cannot write.
    StopReading,
    /// Say goodbye and hang up.
    Close(u16, String),
    /// Reset the TCP connection.
    Reset,
}

/// The way to a connection for other tasks of the relay.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    outgoing: mpsc::Sender<Outgoing>,
    orders: Arc<watch::Sender<Order>>,
}

impl Line {
    /// Queues something to be written. False when the connection is over or its queue is full.
    pub(crate) fn send(&self, outgoing: Outgoing) -> bool {
        self.outgoing.try_send(outgoing).is_ok()
    }

    pub(crate) fn send_text(&self, text: String) -> bool {
        self.send(Outgoing::Message(Message::text(text)))
    }

    /// Gives an order. The last of several ends stands.
    pub(crate) fn order(&self, order: Order) {
        self.orders.send_if_modified(|current| {
            let over = matches!(current, Order::Close(..) | Order::Reset);
            if over || *current == order {
                return false;
            }
            *current = order;
            true
        });
    }

    /// Resolves when the connection's task has ended.
    pub(crate) async fn gone(&self) {
        self.outgoing.closed().await;
    }
}

/// Limits of the sockets of this relay.
pub(crate) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_BYTES))
        .max_frame_size(Some(MAX_BYTES))
        .max_write_buffer_size(usize::MAX)
}

/// The connection's own end of it all.
pub(crate) struct Connection {
    sink: SplitSink<Socket, Message>,
    pub(crate) reader: Reader,
    socket: SharedSocket,
    queue: mpsc::Receiver<Outgoing>,
    orders: watch::Receiver<Order>,
    line: Line,
}

/// How a connection's work ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The peer closed, vanished, or broke the framing.
    Peer,
    /// This side wants to close.
    Close(u16, String),
    Reset,
}

impl Connection {
    pub(crate) fn new(socket: SharedSocket, websocket: Socket) -> Self {
        let (sink, stream) = websocket.split();
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let (orders, order) = watch::channel(Order::Run);
        let line = Line { outgoing, orders: Arc::new(orders) };
        let reader = Reader { stream, orders: order.clone() };
        Self { sink, reader, socket, queue, orders: order, line }
    }

    pub(crate) fn line(&self) -> Line {
        self.line.clone()
    }

    /// Reads, writes and obeys orders until one of them ends the connection; then closes it.
    /// `work` reads from the reader and returns why it stopped.
    pub(crate) async fn run<W>(mut self, work: W)
    where
        W: AsyncFnOnce(&mut Reader) -> End,
    {
        // Only the copies others hold keep the queue open.
        let Self { sink, reader, socket, queue, orders, .. } = &mut self;
        let end = tokio::select! {
            end = work(reader) => end,
            () = write(sink, socket, queue) => End::Peer,
            end = obey(orders) => end,
        };
        match end {
            End::Peer => {}
            End::Reset => {
                let _ = self.socket.reset_when_dropped();
            }
            End::Close(code, reason) => {
                let goodbye = self.close(code, &reason);
                let _ = tokio::time::timeout(CLOSING, goodbye).await;
            }
        }
    }

    /// Writes what is queued, then the close frame, and waits for the peer to go.
    async fn close(&mut self, code: u16, reason: &str) {
        while let Ok(Outgoing::Message(message)) = self.queue.try_recv() {
            if self.sink.feed(message).await.is_err() {
                return;
            }
        }
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        if self.sink.send(Message::Close(Some(frame))).await.is_ok() {
            // The peer's own close frame, or its end; what it still says is of no interest.
            while let Some(Ok(_)) = self.reader.stream.next().await {}
        }
    }
}

/// The way in.
pub(crate) struct Reader {
    stream: SplitStream<Socket>,
    orders: watch::Receiver<Order>,
}

impl Reader {
    /// The next message, `None` at the end. Waits while the order is not to read.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            let stopped = *self.orders.borrow_and_update() == Order::StopReading;
            tokio::select! {
                biased;
                changed = self.orders.changed() => changed.ok()?,
                message = self.stream.next(), if !stopped => return message?.ok(),
            }
        }
    }
}

async fn obey(orders: &mut watch::Receiver<Order>) -> End {
    loop {
        match &*orders.borrow_and_update() {
            Order::Run | Order::StopReading => {}
            Order::Close(code, reason) => return End::Close(*code, reason.clone()),
            Order::Reset => return End::Reset,
        }
        if orders.changed().await.is_err() {
            return End::Peer;
        }
    }
}

/// Writes what is queued, as many frames to one system call as are there. Ends when the peer is
/// gone; when it only said goodbye, the way in notices.
async fn write(
    sink: &mut SplitSink<Socket, Message>,
    socket: &mut SharedSocket,
    queue: &mut mpsc::Receiver<Outgoing>,
) {
    let mut said_goodbye = false;
    while let Some(mut next) = queue.recv().await {
        loop {
            let written = match next {
                _ if said_goodbye => Ok(()),
                Outgoing::Message(message) => {
                    said_goodbye = message.is_close();
                    sink.feed(message).await.map_err(drop)
                }
                Outgoing::Bytes(bytes) => match sink.flush().await {
                    Ok(()) => socket.write_all(&bytes).await.map_err(drop),
                    Err(_) => Err(()),
                },
            };
            if written.is_err() {
                return;
            }
            match queue.try_recv() {
                Ok(more) => next = more,
                Err(_) => break,
            }
        }
        if sink.flush().await.is_err() && !said_goodbye {
            return;
        }
    }
    // The relay has no sender left; the peer may still send.
    std::future::pending::<()>().await;
}
