use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::client::{post, send};
use crate::{Config, DevRelay, ViolationKind};

const KEY: &str = "Kay64UG8yvCyLhqU000LxzYeUm0L/hLIl5S8kyKWbdc=";
const ENROLL: &str = "/v1/endpoint/enroll";
const ADMIN: &str = "/v1/admin/endpoint/enroll";

struct Http {
    relay: DevRelay,
    address: SocketAddr,
}

impl Http {
    async fn start(config: Config) -> Self {
        let relay = DevRelay::start(config).await.unwrap();
        let address = relay.http_url().strip_prefix("http://").unwrap().parse().unwrap();
        Self { relay, address }
    }

    async fn post(&self, path: &str, bearer: Option<&str>, body: &str) -> (u16, Value) {
        post(self.address, path, bearer, body).await.unwrap()
    }

    /// Status and code of a refusal.
    async fn refused(&self, path: &str, bearer: Option<&str>, body: &str) -> (u16, String) {
        let (status, body) = self.post(path, bearer, body).await;
        (status, body["code"].as_str().unwrap().to_owned())
    }
}

fn body() -> String {
    json!({"public_key": KEY, "os": "linux", "arch": "x86_64", "agent_version": "0"}).to_string()
}

#[tokio::test]
async fn an_endpoint_enrolls_with_a_token_once() {
    let http = Http::start(Config::default()).await;
    let admin = Some(http.relay.admin_token());
    let (status, token) = http.post(ADMIN, admin, r#"{"tenant_id":"t"}"#).await;
    assert_eq!(status, 200);
    let names: Vec<_> = token.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["bootstrap_token", "endpoint_id", "expires_at", "tenant_id"]);
    let secret = token["bootstrap_token"].as_str().unwrap();
    assert_eq!(secret.len(), 43);

    let (status, enrolled) = http.post(ENROLL, Some(secret), &body()).await;
    assert_eq!(status, 200);
    assert_eq!(enrolled["endpoint_id"], token["endpoint_id"]);
    assert_eq!(enrolled["tenant_id"], "t");
    assert!(enrolled["registered_at"].is_string());
    let again = http.refused(ENROLL, Some(secret), &body()).await;
    assert_eq!(again, (409, "TOKEN_ALREADY_CONSUMED".to_owned()));
    assert!(http.relay.violations().is_empty(), "{:?}", http.relay.violations());
}

#[tokio::test]
async fn every_refusal_has_its_status_and_code() {
    let http = Http::start(Config::default()).await;
    let admin = Some(http.relay.admin_token());
    let token = http.relay.issue_token(None).token;
    let token = Some(token.as_str());
    let body = body();
    let cases = [
        (ENROLL, token, "not JSON", 400, "INVALID_JSON"),
        // The body comes before the path.
        ("/nowhere", None, "not JSON", 400, "INVALID_JSON"),
        ("/nowhere", None, "{}", 404, "NOT_FOUND"),
        ("/v1/admin/agent/provision", admin, "{}", 404, "NOT_FOUND"),
        ("/v1/endpoint/enroll?x=1", token, body.as_str(), 404, "NOT_FOUND"),
        (ENROLL, None, body.as_str(), 401, "AUTH_INVALID_PROOF"),
        (ENROLL, token, "{}", 400, "INVALID_PUBLIC_KEY"),
        (ENROLL, token, r#"{"public_key":7}"#, 400, "INVALID_PUBLIC_KEY"),
        (ENROLL, token, "null", 500, "INTERNAL_ERROR"),
        (ENROLL, Some("unknown"), body.as_str(), 404, "TOKEN_NOT_FOUND"),
        (ADMIN, None, r#"{"tenant_id":"t"}"#, 401, "AUTH_INVALID_PROOF"),
        (ADMIN, Some("wrong"), r#"{"tenant_id":"t"}"#, 401, "AUTH_INVALID_PROOF"),
        (ADMIN, admin, "{}", 400, "INVALID_TENANT_ID"),
        (ADMIN, admin, r#"{"tenant_id":7}"#, 400, "INVALID_TENANT_ID"),
    ];
    for (path, bearer, body, status, code) in cases {
        let refused = http.refused(path, bearer, body).await;
        assert_eq!(refused, (status, code.to_owned()), "{path} {body}");
    }
    let (status, answer) = send(http.address, hyper::Method::GET, ENROLL, None, "").await.unwrap();
    assert_eq!((status, &answer["code"]), (405, &json!("METHOD_NOT_ALLOWED")));
}

#[tokio::test]
async fn a_token_ends() {
    let http = Http::start(Config { token_lifetime: Duration::ZERO, ..Config::default() }).await;
    let token = http.relay.issue_token(None).token;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let refused = http.refused(ENROLL, Some(&token), &body()).await;
    assert_eq!(refused, (409, "TOKEN_EXPIRED".to_owned()));
}

#[tokio::test]
async fn keys_that_cannot_work_are_enrolled_and_named() {
    let http = Http::start(Config::default()).await;
    for (body, kind) in [
        (r#"{"public_key":"AAAAAAA="}"#.to_owned(), ViolationKind::Enrollment),
        (body().replace('/', "_"), ViolationKind::KillsRelay),
        (json!({"public_key": KEY}).to_string(), ViolationKind::Enrollment),
    ] {
        let token = http.relay.issue_token(None).token;
        assert_eq!(http.post(ENROLL, Some(&token), &body).await.0, 200, "{body}");
        let kinds: Vec<_> = http.relay.take_violations().iter().map(|found| found.kind).collect();
        assert_eq!(kinds, [kind], "{body}");
    }
}

#[tokio::test]
async fn rotation_revokes_even_when_it_fails() {
    use super::fake::{Endpoint, Identity, Wire};

    let http = Http::start(Config::default()).await;
    let identity = Identity::enrolled(&http.relay);
    let live = Endpoint::connect(&http.relay, &identity).await;
    let path = format!("/v1/admin/endpoint/{}/rotate", identity.endpoint_id);
    let admin = Some(http.relay.admin_token());
    let failed = http.refused(&path, admin, "{}").await;
    assert_eq!(failed, (400, "INVALID_TENANT_ID".to_owned()));
    // The live session stays up, the next hello does not get in.
    assert_eq!(http.relay.session(&identity.endpoint_id).unwrap().session_id, live.session_id);
    let mut wire = Wire::connect(&http.relay, "/v1/endpoint/connect").await;
    wire.send(&identity.hello(&http.relay.now().to_string())).await;
    assert_eq!(wire.closed().await, (1008, "ENDPOINT_NOT_ENROLLED".to_owned()));

    let tenant = json!({"tenant_id": http.relay.tenant_id()}).to_string();
    let (status, token) = http.post(&path, admin, &tenant).await;
    assert_eq!((status, &token["endpoint_id"]), (200, &json!(identity.endpoint_id)));
    assert_eq!(http.refused(&path, None, &tenant).await.0, 401);
}
