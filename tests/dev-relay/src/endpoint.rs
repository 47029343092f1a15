//! An endpoint's connection: its hello, then its frames.

mod hello;
pub(crate) mod inbound;

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::config::HelloAnswer;
use crate::connection::{End, Line, Order, Reader};
use crate::frame::{FrameBody, ReceivedFrame};
use crate::random;
use crate::shared::{Refused, Session, SessionInfo, Shared};
use crate::violation::{Violation, ViolationKind, excerpt};

/// Reason of a close for a first frame that is no hello.
const FIRST_FRAME: &str = "first frame must be EndpointHello";

/// Who is at the other end, as far as it is known.
#[derive(Debug, Clone)]
struct Peer {
    shared: Arc<Shared>,
    connection: u64,
    endpoint_id: Option<Arc<str>>,
    session_id: Option<Arc<str>>,
}

impl Peer {
    fn violation(&self, kind: ViolationKind, detail: &str, frame: &str) -> Violation {
        Violation {
            at: Instant::now(),
            kind,
            detail: detail.to_owned(),
            endpoint_id: self.endpoint_id.as_deref().map(str::to_owned),
            session_id: self.session_id.as_deref().map(str::to_owned),
            frame: excerpt(frame),
        }
    }

    fn broke(&self, kind: ViolationKind, detail: &str, frame: &str) {
        self.shared.change(|state| state.violation(self.violation(kind, detail, frame)));
    }

    fn received(
        &self,
        at: Instant,
        kind: &str,
        command_id: Option<&str>,
        body: FrameBody,
    ) -> ReceivedFrame {
        ReceivedFrame {
            number: 0,
            at,
            connection: self.connection,
            endpoint_id: self.endpoint_id.clone(),
            session_id: self.session_id.clone(),
            kind: kind.to_owned(),
            command_id: command_id.map(str::to_owned),
            body,
        }
    }

    fn refuse(&self, code: u16, reason: &str) -> End {
        let refused = Refused {
            at: Instant::now(),
            endpoint_id: self.endpoint_id.as_deref().map(str::to_owned),
            code,
            reason: reason.to_owned(),
        };
        self.shared.change(|state| state.refused(refused));
        End::Close(code, reason.to_owned())
    }
}

/// Serves one endpoint until the connection ends.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    connection: u64,
    line: Line,
    reader: &mut Reader,
) -> End {
    let mut peer = Peer { shared, connection, endpoint_id: None, session_id: None };
    let (text, hello) = match first_frame(&mut peer, reader).await {
        Ok(read) => read,
        Err(end) => return end,
    };
    if let Err(problem) = hello::check(&peer, &hello, &text) {
        return peer.refuse(problem.code, problem.reason);
    }
    if let Some(end) = before_answer(&peer, reader).await {
        return end;
    }
    let info = SessionInfo {
        endpoint_id: hello.endpoint_id,
        tenant_id: hello.tenant_id,
        session_id: random::uuid(),
        agent_version: hello.agent_version,
        since: Instant::now(),
    };
    peer.session_id = Some(info.session_id.as_str().into());
    let _open = OpenSession::new(&peer.shared, info, line.clone());
    frames(&peer, &line, reader).await
}

/// The hello, or why the connection ends instead.
async fn first_frame(peer: &mut Peer, reader: &mut Reader) -> Result<(String, hello::Hello), End> {
    loop {
        let Some(message) = reader.next().await else { return Err(End::Peer) };
        let at = Instant::now();
        let (text, binary) = match message {
            Message::Text(text) => (text.as_str().to_owned(), false),
            Message::Binary(bytes) => (String::from_utf8_lossy(&bytes).into_owned(), true),
            other => {
                peer.shared.log(peer.received(at, "", None, inbound::control(&other)));
                continue;
            }
        };
        let read = hello::read(&text);
        if let Ok(hello) = &read {
            peer.endpoint_id = Some(hello.endpoint_id.as_str().into());
        }
        let kind = if read.is_ok() { "EndpointHello" } else { "" };
        let body = FrameBody::Text(text.as_str().into());
        peer.shared.log(peer.received(at, kind, None, body));
        if binary {
            peer.broke(ViolationKind::BinaryFrame, "the first frame is binary", &text);
        }
        return match read {
            Ok(hello) => {
                for problem in &hello.problems {
                    peer.broke(ViolationKind::Schema, problem, &text);
                }
                Ok((text, hello))
            }
            Err(problem) => {
                let kind = if text.trim() == "null" {
                    ViolationKind::KillsRelay
                } else {
                    ViolationKind::FirstFrame
                };
                peer.broke(kind, &problem, &text);
                Err(peer.refuse(1003, FIRST_FRAME))
            }
        };
    }
}

/// Sits out the delay before the hello's answer. An endpoint must not say anything meanwhile.
async fn before_answer(peer: &Peer, reader: &mut Reader) -> Option<End> {
    let (delay, answer) = {
        let state = peer.shared.state();
        (state.faults.hello_delay, state.faults.hello.clone())
    };
    let mut said = if delay.is_zero() {
        reader.next().now_or_never()
    } else {
        tokio::time::timeout(delay, reader.next()).await.ok()
    };
    if said.is_none() && answer == HelloAnswer::Silence {
        said = Some(reader.next().await);
    }
    match said {
        Some(None | Some(Message::Close(_))) => Some(End::Peer),
        Some(Some(Message::Text(text))) => {
            peer.broke(ViolationKind::BeforeHelloAck, "a frame before the answer", &text);
            Some(peer.refuse(1003, FIRST_FRAME))
        }
        Some(Some(Message::Binary(_))) => {
            peer.broke(ViolationKind::BeforeHelloAck, "a binary frame before the answer", "");
            Some(peer.refuse(1003, FIRST_FRAME))
        }
        _ => match answer {
            HelloAnswer::Close(code, reason) => Some(peer.refuse(code, &reason)),
            HelloAnswer::Ack | HelloAnswer::Silence => None,
        },
    }
}

/// A session that is open until this is dropped, however the connection ends.
struct OpenSession {
    shared: Arc<Shared>,
    info: SessionInfo,
}

impl OpenSession {
    /// Makes the connection the endpoint's session. The answer is queued in the same breath, so
    /// that nothing can be sent to the session before it.
    fn new(shared: &Arc<Shared>, info: SessionInfo, line: Line) -> Self {
        shared.change(|state| {
            let ack = json!({
                "type": "EndpointHelloAck",
                "session_id": info.session_id,
                "server_protocol_version": "v1",
                "ts": state.now(),
            });
            line.send_text(ack.to_string());
            let session = Session { info: info.clone(), line };
            if let Some(old) = state.sessions.insert(info.endpoint_id.clone(), session) {
                old.line.order(Order::Close(1000, "replaced by reconnect".to_owned()));
            }
        });
        tracing::info!(endpoint = info.endpoint_id, session = info.session_id, "connected");
        Self { shared: Arc::clone(shared), info }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let Self { shared, info } = self;
        shared.change(|state| {
            if state.is_current(&info.endpoint_id, &info.session_id) {
                state.sessions.remove(&info.endpoint_id);
            }
            state.pings.retain(|_, session_id| *session_id != info.session_id);
        });
        tracing::info!(endpoint = info.endpoint_id, session = info.session_id, "gone");
    }
}

async fn frames(peer: &Peer, line: &Line, reader: &mut Reader) -> End {
    while let Some(message) = reader.next().await {
        let at = Instant::now();
        let readable = match message {
            Message::Text(text) => inbound::text(peer, line, text.as_str(), at),
            Message::Binary(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let body = FrameBody::Binary(bytes.as_ref().into());
                peer.shared.log(peer.received(at, "", None, body));
                peer.broke(ViolationKind::BinaryFrame, "a binary frame", &text);
                inbound::text(peer, line, &text, at)
            }
            other => {
                peer.shared.log(peer.received(at, "", None, inbound::control(&other)));
                true
            }
        };
        if !readable {
            return End::Close(1003, "invalid JSON".to_owned());
        }
    }
    End::Peer
}
