//! HTTP proxies: which one the environment names, and the tunnel through it.

use std::fmt;
use std::sync::Arc;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::task::JoinSet;

use super::Connection;
use crate::relay::url::{self, Purpose, RelayUrl};

/// Longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Why there is no way through the proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A variable that does not name a proxy. Its value may hold a password and is not shown.
    #[error("{variable} does not hold the URL of an HTTP proxy; write http://host:port")]
    Unusable {
        /// The environment variable.
        variable: &'static str,
    },
    /// A proxy of a kind that is not spoken.
    #[error("the proxy {proxy} speaks {scheme}; only http:// and https:// proxies can be used")]
    Unsupported {
        /// The proxy.
        proxy: String,
        /// The scheme of its URL.
        scheme: String,
    },
    /// The proxy answered the request for a tunnel with something else.
    #[error("the proxy {proxy} refused a tunnel to {target} with status {status}; {}", advice(*status))]
    Refused {
        /// The proxy.
        proxy: String,
        /// Host and port of the relay.
        target: String,
        /// The answer of the proxy.
        status: StatusCode,
    },
    /// The proxy does not speak HTTP, or hung up.
    #[error("the proxy {proxy} does not answer as one ({detail}); check its address")]
    Broken {
        /// The proxy.
        proxy: String,
        /// What went wrong.
        detail: String,
    },
}

fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            "put its user and password into the variable: http://user:password@host:port"
        }
        StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => {
            "its rules must allow CONNECT to the relay, or NO_PROXY name the relay"
        }
        _ if status.is_server_error() => "it cannot reach the relay itself",
        _ => "check its rules, or name the relay in NO_PROXY",
    }
}

/// Which connections go through which proxy.
#[derive(Debug, Clone)]
pub struct ProxyRules {
    matcher: Arc<Matcher>,
}

impl ProxyRules {
    /// From `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, or the same in lower case.
    pub fn from_environment() -> Result<Self, ProxyError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// No proxy for anything.
    pub fn none() -> Self {
        Self { matcher: Arc::new(Matcher::builder().build()) }
    }

    /// From variables as [`Self::from_environment`] reads them. An empty one counts as not set; one
    /// that names no proxy is an error, because going around the proxy is not what was asked for.
    pub fn from_variables(
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, ProxyError> {
        let first_of = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| {
                variable(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value))
            })
        };
        let proxy = |names| match first_of(names) {
            Some((variable, value)) if !is_proxy(&value) => Err(ProxyError::Unusable { variable }),
            found => Ok(found.map(|(_, value)| value).unwrap_or_default()),
        };
        let matcher = Matcher::builder()
            .https(proxy(["HTTPS_PROXY", "https_proxy"])?)
            .http(proxy(["HTTP_PROXY", "http_proxy"])?)
            .all(proxy(["ALL_PROXY", "all_proxy"])?)
            .no(first_of(["NO_PROXY", "no_proxy"]).map(|(_, value)| value).unwrap_or_default())
            .build();
        Ok(Self { matcher: Arc::new(matcher) })
    }

    /// The proxy for a relay; none for this host.
    pub(super) fn for_url(&self, url: &RelayUrl) -> Option<Result<Proxy, ProxyError>> {
        if url.is_loopback() {
            return None;
        }
        let destination: Uri = url.full(Purpose::Enrollment).parse().ok()?;
        let found = self.matcher.intercept(&destination)?;
        Some(Proxy::new(found.uri(), found.basic_auth().cloned()))
    }
}

fn is_proxy(value: &str) -> bool {
    let anything = Uri::from_static("http://relay.invalid");
    Matcher::builder().all(value.to_owned()).build().intercept(&anything).is_some()
}

/// One proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    pub host: ServerName<'static>,
    pub port: u16,
    pub secure: bool,
    authorization: Option<HeaderValue>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&url::authority(&self.host, self.port))
    }
}

impl Proxy {
    fn new(uri: &Uri, authorization: Option<HeaderValue>) -> Result<Self, ProxyError> {
        let unsupported = |scheme: &str| ProxyError::Unsupported {
            proxy: uri.authority().map_or_else(String::new, ToString::to_string),
            scheme: scheme.to_owned(),
        };
        let (secure, port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            other => return Err(unsupported(other.unwrap_or("nothing known"))),
        };
        let host = url::server_name(uri.host().unwrap_or_default())
            .map_err(|_| unsupported("from a host that is no name"))?;
        Ok(Self { host, port: uri.port_u16().unwrap_or(port), secure, authorization })
    }

    /// Asks for a tunnel to `target`, host and port, on a connection to this proxy.
    pub async fn tunnel(&self, stream: Connection, target: &str) -> Result<Connection, ProxyError> {
        let broken = |e: &dyn fmt::Display| ProxyError::Broken {
            proxy: self.to_string(),
            detail: e.to_string(),
        };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(&e))?;
        // Dropped with this call, and the connection with it, unless it became the tunnel.
        let mut driver = JoinSet::new();
        driver.spawn(connection.with_upgrades());

        let mut request =
            Request::builder().method(Method::CONNECT).uri(target).header(HOST, target);
        if let Some(authorization) = &self.authorization {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| broken(&e))?;
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        if !response.status().is_success() {
            return Err(ProxyError::Refused {
                proxy: self.to_string(),
                target: target.to_owned(),
                status: response.status(),
            });
        }
        let tunnel = hyper::upgrade::on(response).await.map_err(|e| broken(&e))?;
        Ok(Box::new(TokioIo::new(tunnel)))
    }
}

#[cfg(test)]
mod tests;
