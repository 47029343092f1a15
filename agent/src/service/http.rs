//! Metrics over HTTP, on a loopback address, for who collects them: `/metrics`, and `/healthz`,
//! which answers 200 while commands are taken and 503 otherwise.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tracing::{debug, info};

use super::ServiceError;
use super::status::StatusSource;
use protocol::message::AgentHealth;

const TEXT_FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the runtime ends.
pub(super) async fn listen(
    address: SocketAddr,
    source: Arc<StatusSource>,
) -> Result<(), ServiceError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ServiceError::Host {
        what: "listen for questions about metrics",
        source,
    })?;
    info!(%address, "serving metrics");
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            let source = Arc::clone(&source);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = respond(&request, &source);
                    async { Ok::<_, Infallible>(response) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(5))
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    debug!(%error, "a question about metrics was not answered");
                }
            });
        }
    });
    Ok(())
}

fn respond(request: &Request<Incoming>, source: &StatusSource) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, TEXT_FORMAT, source.metrics()),
        (&Method::GET, "/healthz") => {
            let status = source.status();
            let healthy = status.agent_health == AgentHealth::Ok;
            let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (code, "text/plain", status.trouble.unwrap_or_else(|| "ok".into()) + "\n")
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "ask for /metrics or /healthz\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
