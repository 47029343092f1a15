//! Addresses of relays.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use hyper::Uri;
use rustls_pki_types::ServerName;

/// Where endpoints open their session.
const SESSION_PATH: &str = "/v1/endpoint/connect";
/// Where endpoints enroll.
const ENROLLMENT_PATH: &str = "/v1/endpoint/enroll";
/// Longest URL that is looked at, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// Why a relay's URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL.
    #[error(
        "`{text}` is not a URL ({detail}); write one like wss://relay.example, and international \
         names in their xn-- form"
    )]
    Malformed {
        /// What was given, shortened.
        text: String,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no scheme, or one that relays do not speak.
    #[error("`{text}` must begin with wss:// or https://, or on this host with ws:// or http://")]
    Scheme {
        /// What was given, shortened.
        text: String,
    },
    /// A user or password in front of the host.
    #[error("a relay's URL takes no user or password; remove what is in front of the `@`")]
    Credentials,
    /// A query or fragment after the path.
    #[error("a relay's URL takes no `?` or `#`: relays match the path exactly; remove that part")]
    AfterPath,
    /// The host is neither a name nor an address.
    #[error("`{host}` is neither a host name nor an IP address")]
    Host {
        /// The host.
        host: String,
    },
    /// Unencrypted, and not on this host.
    #[error(
        "{scheme}:// would send tokens and commands to {host} unencrypted; use {secure}://, or \
         allow plain connections explicitly where the network itself is trusted"
    )]
    PlainOffLoopback {
        /// The scheme that was given.
        scheme: Scheme,
        /// The one that is encrypted.
        secure: Scheme,
        /// The host.
        host: String,
    },
}

/// The schemes of relays' URLs. `ws` and `http`, `wss` and `https` lead to the same sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `ws`
    Ws,
    /// `wss`
    Wss,
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "ws" => Some(Self::Ws),
            "wss" => Some(Self::Wss),
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn is_secure(self) -> bool {
        matches!(self, Self::Wss | Self::Https)
    }

    fn default_port(self) -> u16 {
        if self.is_secure() { 443 } else { 80 }
    }

    fn secure(self) -> Self {
        match self {
            Self::Ws | Self::Wss => Self::Wss,
            Self::Http | Self::Https => Self::Https,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is asked for at a relay; decides the path where the URL has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The WebSocket session, at `/v1/endpoint/connect`.
    Session,
    /// Enrollment, at `/v1/endpoint/enroll`.
    Enrollment,
}

/// The checked URL of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayUrl {
    scheme: Scheme,
    host: ServerName<'static>,
    port: u16,
    /// Without it, the purpose's own.
    path: Option<String>,
}

impl RelayUrl {
    /// Checks a URL: `wss` and `https` anywhere, `ws` and `http` only to `localhost` and loopback
    /// addresses unless `allow_plain`.
    pub fn parse(text: &str, allow_plain: bool) -> Result<Self, UrlError> {
        let text = text.trim();
        let shown = || text.chars().take(80).collect::<String>();
        if text.contains('#') {
            return Err(UrlError::AfterPath);
        }
        if text.len() > MAX_URL_BYTES {
            let detail = format!("longer than {MAX_URL_BYTES} bytes");
            return Err(UrlError::Malformed { text: shown(), detail });
        }
        let scheme = text
            .split_once("://")
            .and_then(|(scheme, _)| Scheme::parse(&scheme.to_ascii_lowercase()))
            .ok_or_else(|| UrlError::Scheme { text: shown() })?;
        let uri: Uri = text
            .parse()
            .map_err(|e| UrlError::Malformed { text: shown(), detail: format!("{e}") })?;
        let authority = uri.authority().ok_or_else(|| UrlError::Host { host: shown() })?;
        if authority.as_str().contains('@') {
            return Err(UrlError::Credentials);
        }
        if uri.query().is_some() {
            return Err(UrlError::AfterPath);
        }
        let host = server_name(authority.host())?;
        let port = match authority.port_u16() {
            Some(port) if port > 0 => port,
            // A port that is no number from 1 to 65535 looks like none at all.
            _ if authority.as_str().len() != authority.host().len() => {
                let detail = "the port is not in 1 to 65535".to_owned();
                return Err(UrlError::Malformed { text: shown(), detail });
            }
            _ => scheme.default_port(),
        };
        if !scheme.is_secure() && !allow_plain && !is_loopback(&host) {
            let host = host.to_str().into_owned();
            return Err(UrlError::PlainOffLoopback { scheme, secure: scheme.secure(), host });
        }
        let path = Some(uri.path()).filter(|path| !matches!(*path, "" | "/")).map(str::to_owned);
        Ok(Self { scheme, host, port, path })
    }

    /// Whether the connection is encrypted.
    pub fn is_secure(&self) -> bool {
        self.scheme.is_secure()
    }

    /// Whether the relay is on this host: `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Whom the relay's certificate must name.
    pub fn host(&self) -> &ServerName<'static> {
        &self.host
    }

    /// The port, 443 or 80 where the URL has none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port, as in a `CONNECT` request.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// As in a `Host` header: the port only where it is not the scheme's own (RFC 9110 4.2.3). Virtual
    /// hosts that compare whole names do not know `relay.example:443`.
    pub fn host_header(&self) -> String {
        if self.port == self.scheme.default_port() {
            bracketed(&self.host)
        } else {
            self.authority()
        }
    }

    /// The URL's path, or the one of `purpose` where it has none.
    pub fn path(&self, purpose: Purpose) -> &str {
        match (&self.path, purpose) {
            (Some(path), _) => path,
            (None, Purpose::Session) => SESSION_PATH,
            (None, Purpose::Enrollment) => ENROLLMENT_PATH,
        }
    }

    /// The whole URL for `purpose`, with the scheme and path that belong to it.
    pub fn full(&self, purpose: Purpose) -> String {
        let scheme = match (purpose, self.is_secure()) {
            (Purpose::Session, true) => Scheme::Wss,
            (Purpose::Session, false) => Scheme::Ws,
            (Purpose::Enrollment, true) => Scheme::Https,
            (Purpose::Enrollment, false) => Scheme::Http,
        };
        format!("{scheme}://{}{}", self.host_header(), self.path(purpose))
    }
}

/// As it was given, without what is only the default.
impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_deref().unwrap_or_default();
        write!(f, "{}://{}{path}", self.scheme, self.host_header())
    }
}

/// Host and port; IPv6 addresses in brackets.
pub(super) fn authority(host: &ServerName<'_>, port: u16) -> String {
    format!("{}:{port}", bracketed(host))
}

/// The host as URLs have it.
fn bracketed(host: &ServerName<'_>) -> String {
    match host {
        ServerName::IpAddress(rustls_pki_types::IpAddr::V6(address)) => {
            format!("[{}]", Ipv6Addr::from(*address))
        }
        _ => host.to_str().into_owned(),
    }
}

/// A host name or address; IPv6 addresses may have brackets.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, UrlError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_ascii_lowercase())
        .map_err(|_| UrlError::Host { host: host.chars().take(80).collect() })
}

/// Names of this host by definition (RFC 6761 6.3) and loopback addresses. These are never looked
/// up, so that no name server can lead a plain connection elsewhere.
fn is_loopback(host: &ServerName<'_>) -> bool {
    match host {
        ServerName::DnsName(name) => {
            let name = name.as_ref();
            name == "localhost" || name.ends_with(".localhost")
        }
        ServerName::IpAddress(address) => IpAddr::from(*address).is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
