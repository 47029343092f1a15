//! From nothing to a session: connection, WebSocket, hello, acknowledgement.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use hyper::header::{HeaderValue, USER_AGENT};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::activity::{Activity, Observed};
use super::end::SessionEnd;
use super::{LinkConfig, hang_up};
use crate::keyholder::{KeyHolder, KeyHolderError};
use crate::relay::connect::{Connection, Connector};
use crate::relay::url::Purpose;
use protocol::message::{ConnectionProof, EndpointHello, Frame, Inbound, classify};
use protocol::{PROTOCOL_VERSION, Timestamp};

/// Longest frame that is taken from a relay, in bytes.
const MAX_INBOUND: usize = 16 << 20;
/// Frames are gathered up to about this many bytes before they are written.
const WRITE_BUFFER: usize = 32 << 10;

/// The WebSocket to a relay.
pub type Socket = WebSocketStream<Observed<Connection>>;

/// A session that the relay has acknowledged.
pub struct Opened {
    pub socket: Socket,
    pub session_id: String,
    pub activity: Arc<Activity>,
}

/// Why there is no session.
#[derive(Debug)]
pub enum NotOpened {
    /// The next attempt may succeed.
    Ended(SessionEnd),
    /// No attempt can.
    KeyHolder(KeyHolderError),
}

impl<E: Into<SessionEnd>> From<E> for NotOpened {
    fn from(end: E) -> Self {
        Self::Ended(end.into())
    }
}

/// Opens a session.
pub async fn open(
    config: &LinkConfig,
    connector: &Connector,
    key_holder: &Arc<KeyHolder>,
) -> Result<Opened, NotOpened> {
    config.traffic.attempts.fetch_add(1, Relaxed);
    let stream = connector.connect(&config.url).await.map_err(SessionEnd::Connect)?;
    let activity = Arc::new(Activity::new());
    let stream = Observed::new(stream, activity.clone(), config.traffic.clone());
    let limit = config.hello_timeout;
    let mut socket = match timeout(limit, upgrade(config, stream)).await {
        Ok(socket) => socket?,
        Err(_) => return Err(SessionEnd::NoAck { limit }.into()),
    };
    let hello = hello(config, key_holder).await.map_err(NotOpened::KeyHolder)?;
    let acknowledged = match timeout(limit, greet(&mut socket, hello)).await {
        Ok(acknowledged) => acknowledged,
        Err(_) => Err(SessionEnd::NoAck { limit }),
    };
    match acknowledged {
        Ok(session_id) => Ok(Opened { socket, session_id, activity }),
        Err(end) => {
            hang_up(socket, &end).await;
            Err(end.into())
        }
    }
}

async fn upgrade(config: &LinkConfig, stream: Observed<Connection>) -> Result<Socket, SessionEnd> {
    let mut request =
        config.url.full(Purpose::Session).into_client_request().map_err(SessionEnd::of_error)?;
    let agent = format!("brainstorm-agent/{}", config.agent_version);
    if let Ok(agent) = HeaderValue::from_str(&agent) {
        request.headers_mut().insert(USER_AGENT, agent);
    }
    let limits = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(config.frame_bound.bytes() + 2 * WRITE_BUFFER)
        .max_message_size(Some(MAX_INBOUND))
        .max_frame_size(Some(MAX_INBOUND));
    let (socket, _response) = client_async_with_config(request, stream, Some(limits))
        .await
        .map_err(SessionEnd::of_error)?;
    Ok(socket)
}

/// The first frame, with a proof made now: relays take one for a minute.
async fn hello(config: &LinkConfig, key_holder: &Arc<KeyHolder>) -> Result<String, KeyHolderError> {
    let holder = key_holder.clone();
    let ts = Timestamp::now();
    let signature = tokio::task::spawn_blocking(move || holder.connection_proof(ts))
        .await
        .map_err(|_| KeyHolderError::Gone)??;
    let identity = key_holder.public();
    let hello = EndpointHello {
        endpoint_id: identity.endpoint_id.clone(),
        tenant_id: identity.tenant_id.clone(),
        agent_version: config.agent_version.clone(),
        agent_protocol_version: PROTOCOL_VERSION.to_owned(),
        connection_proof: ConnectionProof {
            ts: ts.to_string(),
            signature: STANDARD.encode(signature),
        },
    };
    Ok(hello.to_text())
}

/// Says hello and nothing else until the relay has accepted it; gives the session's id.
async fn greet(socket: &mut Socket, hello: String) -> Result<String, SessionEnd> {
    socket.send(Message::text(hello)).await.map_err(SessionEnd::of_error)?;
    loop {
        let message = match socket.next().await {
            Some(message) => message.map_err(SessionEnd::of_error)?,
            None => return Err(SessionEnd::Broken { detail: "it hung up".to_owned() }),
        };
        let before_ack = |detail: &str| Err(SessionEnd::BeforeAck { detail: detail.to_owned() });
        return match message {
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            Message::Close(frame) => Err(SessionEnd::of_close_before_ack(frame.as_ref())),
            Message::Binary(_) => before_ack("a binary frame"),
            Message::Text(text) => match classify(&text) {
                Inbound::Ack(ack) if ack.server_protocol_version == PROTOCOL_VERSION => {
                    Ok(ack.session_id)
                }
                Inbound::Ack(ack) => {
                    let version = protocol::shape::start_of(&ack.server_protocol_version);
                    Err(SessionEnd::OtherVersion { version })
                }
                Inbound::Envelope => before_ack("a command"),
                Inbound::Malformed { reason } => before_ack(&reason),
                _ => before_ack("another frame"),
            },
        };
    }
}
