//! How a relay is set up, and how it misbehaves on request.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ed25519_dalek::SigningKey;

use crate::random;

/// What a relay is started with. `Default` gives a fresh tenant on two free ports.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where WebSockets are served; must be a loopback address, port 0 takes a free one.
    pub ws: SocketAddr,
    /// Where enrollment is served; must be a loopback address, port 0 takes a free one.
    pub http: SocketAddr,
    /// The one tenant of this relay.
    pub tenant_id: String,
    /// Signs the command envelopes.
    pub tenant_key: SigningKey,
    /// `signing_key_id` of the envelopes; by default `<tenant_id>/key-v1`.
    pub signing_key_id: Option<String>,
    /// Bearer token of the administration calls.
    pub admin_token: String,
    /// What operators derive their HMAC key from.
    pub operator_api_key: String,
    /// Time an endpoint has to acknowledge an envelope, from before it is written.
    pub ack_timeout: Duration,
    /// How long a bootstrap token can be used.
    pub token_lifetime: Duration,
    /// How many frames are kept for [`frames`](crate::DevRelay::frames); the oldest go first.
    pub frames_kept: usize,
    /// How many bytes of frames are kept.
    pub frame_bytes_kept: usize,
}

impl Default for Config {
    fn default() -> Self {
        let free_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            ws: free_port,
            http: free_port,
            tenant_id: random::uuid(),
            tenant_key: SigningKey::from_bytes(&random::bytes()),
            signing_key_id: None,
            admin_token: random::text(),
            operator_api_key: random::text(),
            ack_timeout: Duration::from_secs(5),
            token_lifetime: Duration::from_secs(24 * 60 * 60),
            frames_kept: 100_000,
            frame_bytes_kept: 256 << 20,
        }
    }
}

impl Config {
    /// The identifier envelopes name their key by.
    pub fn key_id(&self) -> String {
        self.signing_key_id.clone().unwrap_or_else(|| format!("{}/key-v1", self.tenant_id))
    }
}

/// Faults of the relay itself, changed while it runs with
/// [`set_faults`](crate::DevRelay::set_faults). They apply to what happens from then on.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Reset every new TCP connection of the WebSocket port at once.
    pub refuse_connections: bool,
    /// Leave new TCP connections open without ever answering the upgrade.
    pub mute_upgrades: bool,
    /// Answer the upgrade with this HTTP status instead of 101.
    pub upgrade_status: Option<u16>,
    /// What an otherwise good hello is answered with.
    pub hello: HelloAnswer,
    /// Time between a good hello and its answer.
    pub hello_delay: Duration,
    /// Added to the relay's clock, in milliseconds: proofs are judged and envelopes dated by it.
    pub clock_offset_ms: i64,
}

/// What a good hello is answered with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HelloAnswer {
    /// `EndpointHelloAck`, as the protocol says.
    #[default]
    Ack,
    /// Nothing, ever.
    Silence,
    /// A close frame with this code and reason.
    Close(u16, String),
}
