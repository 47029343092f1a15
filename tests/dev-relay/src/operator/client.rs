//! An operator: signs in, asks, looks at the preview, confirms, and follows one command at a time.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use protocol::canonical::CanonicalError;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::auth::OperatorKey;
use super::preview;
use crate::random;

/// Why an operator gets no further.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Not `ws://` and a loopback address with a port.
    #[error("{0:?} is no relay on this machine; example: ws://127.0.0.1:8443")]
    Address(String),
    /// No process listens, or the connection broke.
    #[error("the connection to the relay failed: {0}; is it running?")]
    Connection(String),
    /// The relay said no.
    #[error("{code}: {message}")]
    Refused {
        /// The protocol's code.
        code: String,
        /// The relay's words.
        message: String,
    },
    /// The relay sent something that does not belong here.
    #[error("the relay sent {got} where {wanted} was expected")]
    Unexpected {
        /// What came, its type or a description.
        got: String,
        /// What should have come.
        wanted: &'static str,
    },
    /// The preview is not of the request that was sent.
    #[error("the preview's hash is not that of the request: nothing was confirmed")]
    OtherPreview,
    /// The request has no canonical form.
    #[error("the request cannot be signed: {0}")]
    Request(#[from] CanonicalError),
}

/// Who an operator is.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The relay's secret that operators derive their key from.
    pub api_key: String,
    /// Who asks.
    pub operator_id: String,
    /// At which tenant.
    pub tenant_id: String,
}

/// What an operator asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the tool is to run.
    pub endpoint_id: String,
    /// The tool.
    pub tool: String,
    /// Its parameters.
    pub params: Map<String, Value>,
    /// How long the command may take, 1 000 to 600 000 milliseconds. The endpoint never sees it.
    pub deadline_ms: u64,
}

/// What a request would do, for the operator to confirm.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The request.
    pub request_id: String,
    /// The command it becomes.
    pub command_id: String,
    /// In words.
    pub summary: String,
    /// Binds words and request.
    pub hash: String,
    /// The whole frame.
    pub frame: Value,
}

/// What an operator is told of a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// `ProgressEvent`: `started` is the endpoint's acknowledgement.
    Progress(Value),
    /// `ResultEvent`, the end.
    Result(Value),
    /// `ErrorEvent`, mostly the end.
    Error(Value),
}

/// A signed-in operator.
pub struct OperatorClient {
    socket: WebSocketStream<TcpStream>,
    key: OperatorKey,
    credentials: Credentials,
}

impl OperatorClient {
    /// Connects to the relay at `url`, `ws://ADDRESS:PORT`, and signs in.
    pub async fn connect(url: &str, credentials: Credentials) -> Result<Self, OperatorError> {
        let address = loopback(url, "ws://").ok_or(OperatorError::Address(url.to_owned()))?;
        let stream = TcpStream::connect(address).await.map_err(lost)?;
        let url = format!("ws://{address}/v1/operator");
        let (socket, _) = client_async(url, stream).await.map_err(lost)?;
        let Credentials { api_key, operator_id, tenant_id } = &credentials;
        let key = OperatorKey::derive(api_key, operator_id, tenant_id);
        let mut hello = json!({
            "type": "OperatorHello",
            "operator": operator(operator_id),
            "tenant_id": tenant_id,
            "client_protocol_version": "v1",
        });
        key.sign(&mut hello)?;
        let mut client = Self { socket, key, credentials };
        client.send(&hello).await?;
        client.expect("OperatorHelloAck").await?;
        Ok(client)
    }

    /// Asks for a command and gives its preview, checked to be of this very request.
    pub async fn request(&mut self, request: &Request) -> Result<Preview, OperatorError> {
        let request_id = random::uuid();
        let mut operator = operator(&self.credentials.operator_id);
        operator["originating_human_id"] = self.credentials.operator_id.as_str().into();
        let mut frame = json!({
            "type": "DispatchRequest",
            "request_id": request_id,
            "tool": request.tool,
            "params": request.params,
            "target_endpoint_id": request.endpoint_id,
            "tenant_id": self.credentials.tenant_id,
            "correlation_id": format!("corr-{request_id}"),
            "operator": operator,
            "options": {
                "auto_confirm": false,
                "stream_progress": true,
                "deadline_ms": request.deadline_ms,
            },
        });
        self.key.sign(&mut frame)?;
        self.send(&frame).await?;
        let shown = self.expect("ChangeSetPreview").await?;
        let text = |name: &str| shown[name].as_str().unwrap_or_default().to_owned();
        let summary = text("preview_summary");
        let hash = text("preview_hash");
        if hash != preview::hash(&frame, &summary)? || text("request_id") != request_id {
            return Err(OperatorError::OtherPreview);
        }
        let command_id = text("command_id");
        Ok(Preview { request_id, command_id, summary, hash, frame: shown })
    }

    /// Lets the command go, or not.
    pub async fn confirm(&mut self, preview: &Preview, confirm: bool) -> Result<(), OperatorError> {
        let frame = json!({
            "type": "ConfirmRequest",
            "request_id": preview.request_id,
            "command_id": preview.command_id,
            "preview_hash": preview.hash,
            "confirm": confirm,
        });
        self.send(&frame).await
    }

    /// What the relay says next.
    pub async fn next(&mut self) -> Result<Told, OperatorError> {
        let frame = self.frame().await?;
        match frame["type"].as_str() {
            Some("ProgressEvent") => Ok(Told::Progress(frame)),
            Some("ResultEvent") => Ok(Told::Result(frame)),
            Some("ErrorEvent") => Ok(Told::Error(frame)),
            other => Err(OperatorError::Unexpected {
                got: other.unwrap_or("no frame").to_owned(),
                wanted: "an event",
            }),
        }
    }

    async fn send(&mut self, frame: &Value) -> Result<(), OperatorError> {
        self.socket.send(Message::text(frame.to_string())).await.map_err(lost)
    }

    async fn expect(&mut self, wanted: &'static str) -> Result<Value, OperatorError> {
        let frame = self.frame().await?;
        let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
        match text("type") {
            kind if kind == wanted => Ok(frame),
            kind if kind == "ErrorEvent" => {
                Err(OperatorError::Refused { code: text("code"), message: text("message") })
            }
            got => Err(OperatorError::Unexpected { got, wanted }),
        }
    }

    async fn frame(&mut self) -> Result<Value, OperatorError> {
        loop {
            let message = self.socket.next().await.ok_or_else(|| lost("it was closed"))?;
            match message.map_err(lost)? {
                Message::Text(text) => {
                    return serde_json::from_str(&text).map_err(|_| OperatorError::Unexpected {
                        got: "no JSON".to_owned(),
                        wanted: "a frame",
                    });
                }
                Message::Close(frame) => {
                    let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                    return Err(lost(format!("it was closed: {reason}")));
                }
                _ => {}
            }
        }
    }
}

fn lost(error: impl std::fmt::Display) -> OperatorError {
    OperatorError::Connection(error.to_string())
}

fn operator(id: &str) -> Value {
    json!({"kind": "human", "id": id, "auth_proof": {"mode": "hmac", "signature": ""}})
}

/// The address in a URL of this machine: no name but `localhost`, no path but `/`.
pub fn loopback(url: &str, scheme: &str) -> Option<SocketAddr> {
    let authority = url.strip_prefix(scheme)?.trim_end_matches('/');
    let authority = match authority.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => authority.to_owned(),
    };
    authority.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback())
}
