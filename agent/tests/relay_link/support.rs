//! A relay that does just what a test says, and an agent's link to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use brainstorm_agent::keyholder::KeyHolder;
use brainstorm_agent::relay::{
    Connector, ConnectorConfig, Handler, LinkConfig, LinkEnd, LinkStatus, ProxyRules, RelayUrl,
    Session, run_link,
};
use ed25519_dalek::VerifyingKey;
use futures_util::{SinkExt, StreamExt};
use protocol::message::AgentHealth;
use protocol::message::WireState;
use protocol::signing::{Domain, connection_proof_bytes, verify};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};

use crate::identity;

/// Longest wait for what must happen.
const SOON: Duration = Duration::from_secs(30);

/// Waits for what must happen.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens")
}

/// Where an agent connects to.
pub struct TestRelay {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl TestRelay {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// The next connection, before anything was said.
    pub async fn accept_tcp(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }

    /// The next connection, as a WebSocket on which the agent has said hello.
    pub async fn accept(&self) -> Connection {
        Connection::greeted(self.accept_tcp().await).await
    }

    /// The next connection, with a session.
    pub async fn accept_session(&self) -> Connection {
        let mut connection = self.accept().await;
        connection.acknowledge().await;
        connection
    }
}

/// One connection of an agent.
pub struct Connection<S = TcpStream> {
    pub socket: WebSocketStream<S>,
    pub hello: Value,
    pub session: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Accepts the WebSocket and the hello.
    pub async fn greeted(stream: S) -> Self {
        let socket = soon(accept_async(stream)).await.unwrap();
        let session = uuid::Uuid::new_v4().to_string();
        let mut connection = Self { socket, hello: Value::Null, session };
        connection.hello = connection.receive().await;
        assert_eq!(connection.hello["type"], "EndpointHello");
        connection
    }

    pub async fn acknowledge(&mut self) {
        let ack = json!({"type": "EndpointHelloAck", "session_id": self.session,
            "server_protocol_version": "v1", "ts": "2026-01-02T03:04:05.678Z"});
        self.send(ack.to_string()).await;
    }

    pub async fn send(&mut self, text: impl Into<String>) {
        soon(self.socket.send(Message::text(text.into()))).await.unwrap();
    }

    /// The next message but pings and pongs; pings are answered meanwhile.
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            match soon(self.socket.next()).await?.ok()? {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return Some(message),
            }
        }
    }

    /// The next frame.
    pub async fn receive(&mut self) -> Value {
        match self.message().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("a text frame was due, not {other:?}"),
        }
    }

    pub async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        soon(self.socket.send(Message::Close(Some(frame)))).await.unwrap();
    }

    /// Reads bytes until the agent has closed its side of the connection.
    pub async fn until_hung_up(&mut self) -> usize {
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0;
        loop {
            match soon(self.socket.get_mut().read(&mut buffer)).await {
                Ok(0) | Err(_) => return total,
                Ok(bytes) => total += bytes,
            }
        }
    }
}

/// Whether the proof in a hello is the endpoint's, made now.
pub fn assert_proof(hello: &Value, holder: &KeyHolder) {
    let public = holder.public();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let ts = text(&hello["connection_proof"]["ts"]);
    let signature = STANDARD.decode(text(&hello["connection_proof"]["signature"])).unwrap();
    let bytes = connection_proof_bytes(&public.endpoint_id, &public.tenant_id, &ts).unwrap();
    let key = VerifyingKey::from_bytes(&public.public_key).unwrap();
    let signature: [u8; 64] = signature.try_into().unwrap();
    assert!(verify(&key, Domain::ConnectionProof, &bytes, &signature));
    let ts = protocol::Timestamp::parse(&ts).unwrap().millis();
    assert!(protocol::Timestamp::now().millis().abs_diff(ts) < 60_000);
}

/// Tells the test what happens. Frames wait for a permit of `gate` before they are done.
pub struct Recorder {
    sessions: mpsc::UnboundedSender<Session>,
    ended: mpsc::UnboundedSender<String>,
    frames: mpsc::UnboundedSender<(Session, String)>,
    pub gate: Semaphore,
    pub running: watch::Sender<usize>,
}

impl Handler for Recorder {
    fn connected(&self, session: Session) {
        self.sessions.send(session).unwrap();
    }

    async fn frame(self: &Arc<Self>, session: Session, text: String, _received: Instant) {
        self.running.send_modify(|running| *running += 1);
        self.gate.acquire().await.unwrap().forget();
        self.running.send_modify(|running| *running -= 1);
        let _ = self.frames.send((session, text));
    }

    async fn is_known_command(&self, _command_id: &str) -> bool {
        false
    }

    fn disconnected(&self, session: &Session) {
        let _ = self.ended.send(session.id.to_string());
    }

    fn health(&self) -> (AgentHealth, WireState) {
        (AgentHealth::Degraded, WireState::Resetting)
    }
}

/// An agent's link.
pub struct Agent {
    pub handler: Arc<Recorder>,
    pub holder: Arc<KeyHolder>,
    pub sessions: mpsc::UnboundedReceiver<Session>,
    pub ended: mpsc::UnboundedReceiver<String>,
    pub frames: mpsc::UnboundedReceiver<(Session, String)>,
    pub status: watch::Receiver<LinkStatus>,
    pub stop: watch::Sender<bool>,
    pub link: JoinHandle<LinkEnd>,
    _dir: tempfile::TempDir,
}

/// Settings that make a test take a second in place of a minute.
pub fn quick(relay: &str) -> LinkConfig {
    let mut config = LinkConfig::new(RelayUrl::parse(relay, false).unwrap(), "1.2.3");
    config.hello_timeout = Duration::from_secs(10);
    config.ping_every = Duration::from_millis(50);
    config.dead_after = Duration::from_secs(20);
    config.backoff.first = Duration::from_millis(20);
    config.backoff.most = Duration::from_millis(100);
    config.backoff.spread = Duration::from_millis(100);
    config.drain = Duration::from_secs(10);
    config
}

impl Agent {
    /// Starts with `settings` changed from the quick ones.
    pub fn start(relay: &TestRelay, settings: impl FnOnce(&mut LinkConfig)) -> Self {
        let mut config = quick(&format!("ws://{}", relay.address));
        settings(&mut config);
        Self::start_with(config, None)
    }

    pub fn start_with(config: LinkConfig, ca_file: Option<PathBuf>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = identity::write(dir.path());
        let program = Path::new(env!("CARGO_BIN_EXE_brainstorm-agent"));
        let holder = Arc::new(KeyHolder::spawn_program(program, &file, None).unwrap());
        let proxies = ProxyRules::none();
        let connector = ConnectorConfig { ca_file, proxies, step_limit: Duration::from_secs(10) };
        let connector = Arc::new(Connector::new(connector).unwrap());
        let (sessions, seen_sessions) = mpsc::unbounded_channel();
        let (ended, seen_ended) = mpsc::unbounded_channel();
        let (frames, seen_frames) = mpsc::unbounded_channel();
        let gate = Semaphore::new(Semaphore::MAX_PERMITS);
        let handler = Recorder { sessions, ended, frames, gate, running: watch::Sender::new(0) };
        let handler = Arc::new(handler);
        let (stop, stopping) = watch::channel(false);
        let (status, seen_status) = watch::channel(LinkStatus::Connecting);
        let link = run_link(config, connector, holder.clone(), handler.clone(), stopping, status);
        Self {
            handler,
            holder,
            sessions: seen_sessions,
            ended: seen_ended,
            frames: seen_frames,
            status: seen_status,
            stop,
            link: tokio::spawn(link),
            _dir: dir,
        }
    }

    /// The next session.
    pub async fn session(&mut self) -> Session {
        soon(self.sessions.recv()).await.unwrap()
    }

    /// Waits for a status.
    pub async fn status(&mut self, wanted: impl Fn(&LinkStatus) -> bool) -> LinkStatus {
        soon(self.status.wait_for(wanted)).await.unwrap().clone()
    }
}

/// A frame for the session.
pub fn frame(session: &Session, payload: &str) -> String {
    json!({"type": "ProgressEvent", "session_id": &*session.id, "payload": payload}).to_string()
}
