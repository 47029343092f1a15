//! The enrollment calls, with the very statuses and codes relays in the field give.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpStream;

use crate::enrollment::TokenProblem;
use crate::shared::Shared;
use crate::violation::{Violation, ViolationKind, excerpt};

/// Largest body read.
const MAX_BYTES: usize = 1 << 20;
/// How long a client may take for its headers.
const HEADERS: Duration = Duration::from_secs(30);

/// A status and the JSON that goes with it.
type Answer = (StatusCode, Value);

/// Serves one connection.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(&shared, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("an HTTP connection ended early: {error}");
    }
}

async fn respond(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = answer(shared, request).await;
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    (status, json!({ "code": code }))
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Answer {
    if request.method() != Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED");
    }
    // A query is no part of any path here.
    let path = request.uri().path_and_query().map(|path| path.as_str().to_owned());
    let bearer = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::to_owned);
    let body = Limited::new(request.into_body(), MAX_BYTES).collect().await;
    let body: Option<Value> =
        body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    // The body is read before anything else is looked at, even where the request needs none.
    let Some(body) = body else {
        return refusal(StatusCode::BAD_REQUEST, "INVALID_JSON");
    };
    let path = path.unwrap_or_default();
    if path == "/v1/endpoint/enroll" {
        return enroll(shared, bearer.as_deref(), &body);
    }
    let rotated = path
        .strip_prefix("/v1/admin/endpoint/")
        .and_then(|rest| rest.strip_suffix("/rotate"))
        .filter(|endpoint| !endpoint.is_empty() && !endpoint.contains('/'));
    if path != "/v1/admin/endpoint/enroll" && rotated.is_none() {
        return refusal(StatusCode::NOT_FOUND, "NOT_FOUND");
    }
    if !is_admin(shared, bearer.as_deref()) {
        return refusal(StatusCode::UNAUTHORIZED, "AUTH_INVALID_PROOF");
    }
    if let Some(endpoint_id) = rotated {
        // Before the body is looked at: a call that fails has revoked all the same.
        shared.change(|state| state.enrollments.revoke(endpoint_id));
    }
    issue(shared, &body, rotated)
}

fn is_admin(shared: &Shared, bearer: Option<&str>) -> bool {
    bearer.is_some_and(|token| token.as_bytes().ct_eq(shared.config.admin_token.as_bytes()).into())
}

/// Issues a bootstrap token, for `rotated` or for the endpoint the body may name.
fn issue(shared: &Shared, body: &Value, rotated: Option<&str>) -> Answer {
    let Some(tenant_id) = body["tenant_id"].as_str().filter(|tenant| !tenant.is_empty()) else {
        return refusal(StatusCode::BAD_REQUEST, "INVALID_TENANT_ID");
    };
    let endpoint_id = rotated.or_else(|| body["endpoint_id"].as_str());
    let lifetime = i64::try_from(shared.config.token_lifetime.as_millis()).unwrap_or(i64::MAX);
    let token = shared.change(|state| {
        let expires_at = state.now().plus_millis(lifetime);
        state.enrollments.issue(tenant_id, endpoint_id, expires_at)
    });
    (StatusCode::OK, json!(token))
}

fn enroll(shared: &Shared, bearer: Option<&str>, body: &Value) -> Answer {
    let Some(token) = bearer else {
        return refusal(StatusCode::UNAUTHORIZED, "AUTH_INVALID_PROOF");
    };
    if body.is_null() {
        let message = "the body is null";
        let body = json!({ "code": "INTERNAL_ERROR", "message": message });
        return (StatusCode::INTERNAL_SERVER_ERROR, body);
    }
    let Some(public_key) = body["public_key"].as_str() else {
        return refusal(StatusCode::BAD_REQUEST, "INVALID_PUBLIC_KEY");
    };
    let enrolled = shared.change(|state| {
        let now = state.now();
        let token = state.enrollments.enroll(token, public_key, now)?;
        if let Some(violation) = misfit(&token.endpoint_id, body, public_key) {
            state.violation(violation);
        }
        Ok((token, now))
    });
    match enrolled {
        Ok((token, now)) => {
            let answer = json!({
                "endpoint_id": token.endpoint_id,
                "tenant_id": token.tenant_id,
                "registered_at": now,
            });
            (StatusCode::OK, answer)
        }
        Err(TokenProblem::NotFound) => refusal(StatusCode::NOT_FOUND, "TOKEN_NOT_FOUND"),
        Err(TokenProblem::Consumed) => refusal(StatusCode::CONFLICT, "TOKEN_ALREADY_CONSUMED"),
        Err(TokenProblem::Expired) => refusal(StatusCode::CONFLICT, "TOKEN_EXPIRED"),
    }
}

/// What is wrong with an enrollment that relays accept all the same.
fn misfit(endpoint_id: &str, body: &Value, public_key: &str) -> Option<Violation> {
    let (kind, detail) = if public_key.contains(['-', '_']) {
        (ViolationKind::KillsRelay, "public_key is base64url; the next hello kills the relay")
    } else if !STANDARD.decode(public_key).is_ok_and(|key| key.len() == 32) {
        (ViolationKind::Enrollment, "public_key is not 32 bytes in padded base64")
    } else if ["os", "arch", "agent_version"].iter().any(|name| !body[*name].is_string()) {
        (ViolationKind::Enrollment, "os, arch and agent_version must be texts")
    } else {
        return None;
    };
    Some(Violation {
        at: std::time::Instant::now(),
        kind,
        detail: detail.to_owned(),
        endpoint_id: Some(endpoint_id.to_owned()),
        session_id: None,
        frame: excerpt(&body.to_string()),
    })
}
