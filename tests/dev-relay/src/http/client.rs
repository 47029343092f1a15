//! One POST at a time, to a relay on the same machine.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Largest answer read.
const MAX_BYTES: usize = 1 << 20;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No process listens, or the connection broke.
    #[error("cannot reach {address}: {what}; is the relay running?")]
    Connection {
        /// Where.
        address: SocketAddr,
        /// What happened.
        what: String,
    },
    /// The call itself cannot be made.
    #[error("this is no request: {0}")]
    Request(#[from] hyper::http::Error),
    /// The answer is no JSON, or too long.
    #[error("{address} gave an answer that cannot be read: {what}")]
    Answer {
        /// Where.
        address: SocketAddr,
        /// What is wrong.
        what: String,
    },
}

/// Posts `body` as it is and gives the status and the JSON that came back.
pub async fn post(
    address: SocketAddr,
    path: &str,
    bearer: Option<&str>,
    body: &str,
) -> Result<(u16, Value), CallError> {
    send(address, Method::POST, path, bearer, body).await
}

/// Sends any request and gives the status and the JSON that came back.
pub async fn send(
    address: SocketAddr,
    method: Method,
    path: &str,
    bearer: Option<&str>,
    body: &str,
) -> Result<(u16, Value), CallError> {
    let broken = |what: String| CallError::Connection { address, what };
    let stream = TcpStream::connect(address).await.map_err(|error| broken(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.to_string()))?;
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = bearer {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Full::<Bytes>::from(body.to_owned()))?;
    let exchange = async {
        let response =
            sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
        let status = response.status().as_u16();
        let unreadable = |what: String| CallError::Answer { address, what };
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await
            .map_err(|error| unreadable(error.to_string()))?;
        let body = serde_json::from_slice(&body.to_bytes())
            .map_err(|error| unreadable(error.to_string()))?;
        Ok((status, body))
    };
    tokio::select! {
        answer = exchange => answer,
        // The exchange sees what ended the connection, unless it is over already.
        Err(error) = connection => Err(broken(error.to_string())),
    }
}
