//! The connection to the relay: enrollment over HTTP, the WebSocket session, reconnecting, health.
//!
//! - [`RelayUrl`]: where a relay is; refuses to send anything unencrypted over a network.
//! - [`Connector`]: names, proxies, TLS; gives one stream that everything else is spoken on.
//! - [`enroll()`]: a token and a public key for an identity.
//! - [`run_link`]: the session, kept up.
//! - [`RelayAdapter`]: from frames of the session to commands, and from their answers to frames.

pub mod adapter;
pub mod backoff;
pub mod connect;
pub mod enroll;
pub mod link;
pub mod url;

pub use adapter::RelayAdapter;
pub use backoff::Backoff;
pub use connect::{ConnectError, Connection, Connector, ConnectorConfig, ProxyError, ProxyRules};
pub use enroll::{BootstrapToken, EnrollError, EnrollRequest, Enrolled, enroll};
pub use link::{
    FrameBound, FrameFault, Handler, LinkConfig, LinkEnd, LinkStatus, SendError, Sent, Session,
    SessionOver, Traffic, run_link,
};
pub use url::{Purpose, RelayUrl, UrlError};
