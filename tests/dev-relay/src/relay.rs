//! The relay as its user holds it.

mod faults;
mod listen;
mod send;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use protocol::timestamp::Timestamp;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::enrollment::BootstrapToken;
use crate::frame::ReceivedFrame;
use crate::shared::{Refused, SessionInfo, Shared};
use crate::violation::{Late, Violation};

pub use faults::{Farewell, Raw};
use listen::Listeners;

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its keys and tokens are for trying things out, not for a network.
    #[error("{0} is not a loopback address; this relay serves its own machine only")]
    NotLoopback(SocketAddr),
    /// The port is taken, or may not be used.
    #[error("cannot listen on {address}: {source}; choose another port, 0 takes a free one")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A running relay. It stops when it is dropped.
#[derive(Debug)]
pub struct DevRelay {
    shared: Arc<Shared>,
    ws: SocketAddr,
    http: SocketAddr,
    listeners: tokio::sync::Mutex<Option<Listeners>>,
}

impl DevRelay {
    /// Starts listening. Must be called inside a tokio runtime.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let ws = bind(config.ws).await?;
        let http = bind(config.http).await?;
        let address = |listener: &TcpListener, asked| {
            listener.local_addr().map_err(|source| StartError::Listen { address: asked, source })
        };
        let (ws_address, http_address) = (address(&ws, config.ws)?, address(&http, config.http)?);
        let shared = Shared::new(config);
        let listeners = Listeners::start(&shared, ws, http);
        Ok(Self {
            shared,
            ws: ws_address,
            http: http_address,
            listeners: tokio::sync::Mutex::new(Some(listeners)),
        })
    }

    /// Where endpoints and operators connect: `ws://127.0.0.1:PORT`, without a path.
    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.ws)
    }

    /// Where endpoints enroll: `http://127.0.0.1:PORT`, without a path.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// The tenant of this relay.
    pub fn tenant_id(&self) -> &str {
        &self.shared.config.tenant_id
    }

    /// The public half of the key that signs envelopes now, as 64 hexadecimal digits.
    pub fn tenant_public_key_hex(&self) -> String {
        use std::fmt::Write as _;
        let key = self.shared.state().signing_key.verifying_key();
        key.as_bytes().iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// What envelopes call that key.
    pub fn signing_key_id(&self) -> String {
        self.shared.state().signing_key_id.clone()
    }

    /// Signs envelopes with another key from now on.
    pub fn set_signing_key(&self, id: &str, key: SigningKey) {
        self.shared.change(|state| {
            id.clone_into(&mut state.signing_key_id);
            state.signing_key = key;
        });
    }

    /// The bearer token of the administration calls.
    pub fn admin_token(&self) -> &str {
        &self.shared.config.admin_token
    }

    /// What operators derive their key from.
    pub fn operator_api_key(&self) -> &str {
        &self.shared.config.operator_api_key
    }

    /// A token to enroll an endpoint with, as the administration call gives it. Without an
    /// identifier the endpoint gets a new one.
    pub fn issue_token(&self, endpoint_id: Option<&str>) -> BootstrapToken {
        let lifetime = i64::try_from(self.shared.config.token_lifetime.as_millis());
        self.shared.change(|state| {
            let expires_at = state.now().plus_millis(lifetime.unwrap_or(i64::MAX));
            state.enrollments.issue(&self.shared.config.tenant_id, endpoint_id, expires_at)
        })
    }

    /// Enrolls an endpoint without the HTTP call; `public_key` in standard base64.
    pub fn enroll(&self, endpoint_id: &str, public_key: &str) {
        self.shared.change(|state| {
            state.enrollments.insert(endpoint_id, &self.shared.config.tenant_id, public_key);
        });
    }

    /// Forgets an endpoint's key: its next hello is refused, a live session stays up.
    pub fn revoke(&self, endpoint_id: &str) {
        self.shared.change(|state| state.enrollments.revoke(endpoint_id));
    }

    /// The relay's clock, offset included.
    pub fn now(&self) -> Timestamp {
        self.shared.state().now()
    }

    /// The endpoint's live session.
    pub fn session(&self, endpoint_id: &str) -> Option<SessionInfo> {
        let state = self.shared.state();
        state.sessions.get(endpoint_id).map(|session| session.info.clone())
    }

    /// All live sessions, the oldest first.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let state = self.shared.state();
        let mut sessions: Vec<_> =
            state.sessions.values().map(|session| session.info.clone()).collect();
        sessions.sort_by_key(|session| session.since);
        sessions
    }

    /// Waits for the endpoint to have a session; `None` when it has none within `limit`.
    pub async fn wait_for_endpoint(
        &self,
        endpoint_id: &str,
        limit: Duration,
    ) -> Option<SessionInfo> {
        self.wait_for_session_after(endpoint_id, "", limit).await
    }

    /// Waits for the endpoint to have another session than `old`.
    pub async fn wait_for_session_after(
        &self,
        endpoint_id: &str,
        old: &str,
        limit: Duration,
    ) -> Option<SessionInfo> {
        self.shared
            .wait_for(limit, |state| {
                let session = state.sessions.get(endpoint_id)?;
                (session.info.session_id != old).then(|| session.info.clone())
            })
            .await
    }

    /// Waits for the endpoint to have no session. False when it still has one after `limit`.
    pub async fn wait_for_disconnect(&self, endpoint_id: &str, limit: Duration) -> bool {
        let gone = |state: &mut crate::shared::State| {
            (!state.sessions.contains_key(endpoint_id)).then_some(())
        };
        self.shared.wait_for(limit, gone).await.is_some()
    }

    /// The frames that endpoints sent, as far as they are kept.
    pub fn frames(&self) -> Vec<ReceivedFrame> {
        self.frames_since(0)
    }

    /// The kept frames from number `number` on.
    pub fn frames_since(&self, number: u64) -> Vec<ReceivedFrame> {
        self.shared.state().frames.since(number).cloned().collect()
    }

    /// The number the next frame will get, to look only at what comes from here on.
    pub fn next_frame(&self) -> u64 {
        self.shared.state().frames.next_number()
    }

    /// Waits for a frame from number `from` on that `wanted` says yes to.
    pub async fn wait_for_frame(
        &self,
        from: u64,
        limit: Duration,
        mut wanted: impl FnMut(&ReceivedFrame) -> bool,
    ) -> Option<ReceivedFrame> {
        let mut from = from;
        self.shared
            .wait_for(limit, |state| {
                let found = state.frames.since(from).find(|frame| wanted(frame)).cloned();
                from = state.frames.next_number();
                found
            })
            .await
    }

    /// Every rule that endpoints broke. A good endpoint leaves this empty.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.state().violations.clone()
    }

    /// Takes the violations out, for a test that has provoked some.
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.shared.state().violations)
    }

    /// Frames that came too late to matter and broke no rule.
    pub fn late(&self) -> Vec<Late> {
        self.shared.state().late.clone()
    }

    /// Connections that were closed instead of getting a session.
    pub fn refused(&self) -> Vec<Refused> {
        self.shared.state().refused.clone()
    }

    /// How many TCP connections the WebSocket port has seen.
    pub fn connections(&self) -> u64 {
        self.shared.state().connections
    }

    /// How many commands have no end yet.
    pub fn open_commands(&self) -> usize {
        self.shared.state().ledger.open()
    }

    /// Rings whenever something changed: sessions, frames, violations.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.shared.changes()
    }

    /// Stops: says `server shutdown` to every endpoint and closes both ports.
    pub async fn shutdown(&self) {
        self.go_down(Farewell::Goodbye).await;
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    if !address.ip().is_loopback() {
        return Err(StartError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}
