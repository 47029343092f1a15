//! Enrollment: a one-time token and a public key for an identity.

mod refusal;

pub use refusal::EnrollError;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::connect::Connector;
use super::url::{Purpose, RelayUrl};
use protocol::shape::is_uuid;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Longest token, in bytes. Relays give 43 characters.
const MAX_TOKEN: usize = 1024;
/// Longest tenant, in bytes.
const MAX_TENANT: usize = 256;

/// The one-time token of an enrollment. Never shown.
pub struct BootstrapToken(Zeroizing<String>);

impl BootstrapToken {
    /// Takes a token, without the white space around it that files and shells add.
    pub fn parse(text: &str) -> Result<Self, EnrollError> {
        let token = text.trim();
        let fits = (1..=MAX_TOKEN).contains(&token.len());
        if fits && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(Zeroizing::new(token.to_owned())))
        } else {
            Err(EnrollError::NotAToken)
        }
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootstrapToken(..)")
    }
}

/// What an endpoint says of itself.
#[derive(Debug)]
pub struct EnrollRequest {
    /// The relay.
    pub url: RelayUrl,
    /// The token its operator gave out, good once and for a day.
    pub token: BootstrapToken,
    /// The endpoint's new Ed25519 key.
    pub public_key: [u8; 32],
    /// The operating system.
    pub os: String,
    /// The processor's architecture.
    pub arch: String,
    /// Version of this agent.
    pub agent_version: String,
}

/// What the relay made of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Enrolled {
    /// This endpoint from now on, a UUID.
    pub endpoint_id: String,
    /// The tenant of the endpoint.
    pub tenant_id: String,
    /// When, as the relay writes it.
    pub registered_at: String,
}

/// Enrolls within `limit`. When it fails after the request was sent, the token may be spent.
pub async fn enroll(
    connector: &Connector,
    request: &EnrollRequest,
    limit: Duration,
) -> Result<Enrolled, EnrollError> {
    match timeout(limit, attempt(connector, request)).await {
        Ok(done) => done,
        Err(_) => Err(EnrollError::TooSlow { limit }),
    }
}

async fn attempt(connector: &Connector, request: &EnrollRequest) -> Result<Enrolled, EnrollError> {
    let stream = connector.connect(&request.url).await?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    // Ends with this call.
    let mut driver = JoinSet::new();
    driver.spawn(connection);

    let response = sender.send_request(http_request(request)?).await?;
    let status = response.status();
    let body = match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(EnrollError::Unusable { detail: format!("over {MAX_ANSWER} bytes") });
        }
        Err(error) => return Err(EnrollError::Broken { detail: error.to_string() }),
    };
    if status == StatusCode::OK { read_enrolled(&body) } else { Err(refusal::read(status, &body)) }
}

fn http_request(request: &EnrollRequest) -> Result<Request<Full<Bytes>>, EnrollError> {
    #[derive(Serialize)]
    struct Body<'a> {
        public_key: String,
        os: &'a str,
        arch: &'a str,
        agent_version: &'a str,
    }

    let body = Body {
        public_key: STANDARD.encode(request.public_key),
        os: &request.os,
        arch: &request.arch,
        agent_version: &request.agent_version,
    };
    let body = serde_json::to_vec(&body)
        .map_err(|error| EnrollError::Broken { detail: error.to_string() })?;
    let bearer = Zeroizing::new(format!("Bearer {}", request.token.0.as_str()));
    let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| EnrollError::NotAToken)?;
    bearer.set_sensitive(true);
    Request::builder()
        .method(Method::POST)
        .uri(request.url.path(Purpose::Enrollment))
        .header(HOST, request.url.host_header())
        .header(AUTHORIZATION, bearer)
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, format!("brainstorm-agent/{}", request.agent_version))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| EnrollError::Broken { detail: error.to_string() })
}

fn read_enrolled(body: &[u8]) -> Result<Enrolled, EnrollError> {
    let unusable = |detail: String| EnrollError::Unusable { detail };
    let enrolled: Enrolled =
        serde_json::from_slice(body).map_err(|error| unusable(error.to_string()))?;
    if !is_uuid(&enrolled.endpoint_id) {
        return Err(unusable("endpoint_id is not a UUID".to_owned()));
    }
    let tenant = &enrolled.tenant_id;
    if !(1..=MAX_TENANT).contains(&tenant.len()) || tenant.contains(char::is_control) {
        return Err(unusable("tenant_id is not a name of 1 to 256 bytes".to_owned()));
    }
    if protocol::Timestamp::parse(&enrolled.registered_at).is_none() {
        return Err(unusable("registered_at is not a time".to_owned()));
    }
    Ok(enrolled)
}

#[cfg(test)]
mod tests;
