//! The connection to the relay: enrolment over HTTP, the WebSocket session, reconnecting, health.
//!
//! - [`RelayUrl`]: where a relay is; refuses to send anything unencrypted over a network.
//! - [`Connector`]: names, proxies, TLS; gives one stream that everything else is spoken on.

pub mod backoff;
pub mod connect;
pub mod url;

pub use backoff::Backoff;
pub use connect::{ConnectError, Connection, Connector, ConnectorConfig};
pub use url::{Purpose, RelayUrl, UrlError};
