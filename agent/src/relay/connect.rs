//! One stream to the relay, whatever lies between: names, proxies, TLS.
//!
//! The binary is static, so the C library's resolver is not there: names are resolved here, with
//! `/etc/hosts` first and `/etc/resolv.conf` read anew each time. A connection to this host never
//! goes through a proxy and never asks a name server.

mod names;
mod proxy;
mod race;
mod tls;

pub use names::NameError;
pub use proxy::{ProxyError, ProxyRules};
pub use race::Attempt;
pub use tls::{CertificateProblem, TlsError};

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use self::names::Names;
use self::proxy::Proxy;
use self::tls::Tls;
use super::url::{self, RelayUrl};

/// What a connection is made of.
pub trait RelayStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> RelayStream for T {}

/// A connection to a relay: encrypted when its URL says so, through a proxy when there is one.
pub type Connection = Box<dyn RelayStream>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address, or could not be looked up.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No address answered.
    #[error(
        "cannot connect to {target}: {}; check that it runs there and that no firewall is between",
        describe(attempts)
    )]
    NoAnswer {
        /// Host and port.
        target: String,
        /// What became of each address.
        attempts: Vec<Attempt>,
    },
    /// The proxy would not do it.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// No encrypted connection.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A step took too long.
    #[error("{step} {target} took longer than {} s; check the network between", limit.as_secs_f32())]
    TooSlow {
        /// What was being done.
        step: &'static str,
        /// To whom.
        target: String,
        /// The limit for that step.
        limit: Duration,
    },
}

fn describe(attempts: &[Attempt]) -> String {
    let mut text = String::new();
    for (index, Attempt { address, error }) in attempts.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{address} gave `{error}`");
    }
    text
}

/// How connections are made.
#[derive(Debug, Clone)]
pub struct ConnectorConfig {
    /// PEM file of certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Which connections go through which proxy.
    pub proxies: ProxyRules,
    /// Longest time for each step: the name, the socket, the proxy, TLS.
    pub step_limit: Duration,
}

impl ConnectorConfig {
    /// Proxies from the environment, 15 s a step.
    pub fn from_environment(ca_file: Option<PathBuf>) -> Result<Self, ProxyError> {
        let proxies = ProxyRules::from_environment()?;
        Ok(Self { ca_file, proxies, step_limit: Duration::from_secs(15) })
    }
}

/// Makes connections to relays.
#[derive(Debug)]
pub struct Connector {
    proxies: ProxyRules,
    names: Names,
    tls: Tls,
    step_limit: Duration,
}

impl Connector {
    /// Checks the file of certificate authorities.
    pub fn new(config: ConnectorConfig) -> Result<Self, ConnectError> {
        Ok(Self {
            proxies: config.proxies,
            names: Names::of_system(),
            tls: Tls::new(config.ca_file)?,
            step_limit: config.step_limit,
        })
    }

    /// Connects, and encrypts when the URL says so.
    pub async fn connect(&self, url: &RelayUrl) -> Result<Connection, ConnectError> {
        let target = url.authority();
        let stream = match self.proxies.for_url(url) {
            Some(proxy) => self.through(&proxy?, &target).await?,
            None => self.open(url.host(), url.port()).await?,
        };
        if url.is_secure() { self.encrypt(stream, url.host(), target).await } else { Ok(stream) }
    }

    /// A tunnel to `target` through `proxy`, which looks the name up itself.
    async fn through(&self, proxy: &Proxy, target: &str) -> Result<Connection, ConnectError> {
        let mut stream = self.open(&proxy.host, proxy.port).await?;
        if proxy.secure {
            stream = self.encrypt(stream, &proxy.host, proxy.to_string()).await?;
        }
        let tunnel = proxy.tunnel(stream, target);
        let step = "asking the proxy for";
        Ok(self.within(step, target.to_owned(), tunnel).await??)
    }

    /// A plain socket.
    async fn open(
        &self,
        host: &ServerName<'static>,
        port: u16,
    ) -> Result<Connection, ConnectError> {
        let lookup = self.names.lookup(host, port);
        let addresses = self.within("looking up", host.to_str().into_owned(), lookup).await??;
        let target = url::authority(host, port);
        let stream = race::first_to_answer(&addresses, self.step_limit)
            .await
            .map_err(|attempts| ConnectError::NoAnswer { target, attempts })?;
        Ok(Box::new(stream))
    }

    async fn encrypt(
        &self,
        stream: Connection,
        host: &ServerName<'static>,
        target: String,
    ) -> Result<Connection, ConnectError> {
        let handshake = self.tls.encrypt(stream, host);
        Ok(self.within("the TLS handshake with", target, handshake).await??)
    }

    async fn within<T>(
        &self,
        step: &'static str,
        target: String,
        work: impl Future<Output = T>,
    ) -> Result<T, ConnectError> {
        let limit = self.step_limit;
        timeout(limit, work).await.map_err(|_| ConnectError::TooSlow { step, target, limit })
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
