use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Response, header};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::relay::{ConnectorConfig, ProxyRules};

const ENDPOINT: &str = "dc4a8b19-91c5-4c30-b66d-549dc96aea71";
const TOKEN: &str = "g2vAmDGNUOIA-A52VD_YBkch8NzNiXLTpVFb7pjrw8E";

/// What came to the server: method and path, headers, body.
type Seen = Arc<Mutex<Vec<(String, hyper::HeaderMap, Vec<u8>)>>>;

/// A server that answers everything the same way.
async fn server(status: u16, body: String) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let noted = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(|request: Request<Incoming>| {
                let (noted, body) = (noted.clone(), body.clone());
                async move {
                    let (head, content) = request.into_parts();
                    let content = content.collect().await.unwrap().to_bytes().to_vec();
                    let line = format!("{} {}", head.method, head.uri);
                    noted.lock().unwrap().push((line, head.headers, content));
                    let response = Response::builder().status(status);
                    Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body))).unwrap())
                }
            });
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        }
    });
    (address, seen)
}

async fn enroll_at(address: SocketAddr, limit: Duration) -> Result<Enrolled, EnrollError> {
    let config = ConnectorConfig {
        ca_file: None,
        proxies: ProxyRules::none(),
        step_limit: Duration::from_secs(10),
    };
    let request = EnrollRequest {
        url: RelayUrl::parse(&format!("http://{address}"), false).unwrap(),
        token: BootstrapToken::parse(TOKEN).unwrap(),
        public_key: [0xfb; 32],
        os: "linux".to_owned(),
        arch: "x86_64".to_owned(),
        agent_version: "1.2.3".to_owned(),
    };
    enroll(&Connector::new(config).unwrap(), &request, limit).await
}

async fn answer(status: u16, body: impl ToString) -> Result<Enrolled, EnrollError> {
    let (address, _) = server(status, body.to_string()).await;
    enroll_at(address, Duration::from_secs(10)).await
}

fn good() -> Value {
    json!({"endpoint_id": ENDPOINT, "tenant_id": "tenant-local",
        "registered_at": "2026-01-02T03:04:05.678Z", "more": 1})
}

#[tokio::test]
async fn the_request_is_what_relays_read() {
    let (address, seen) = server(200, good().to_string()).await;
    let enrolled = enroll_at(address, Duration::from_secs(10)).await.unwrap();
    assert_eq!(enrolled.endpoint_id, ENDPOINT);
    assert_eq!(enrolled.tenant_id, "tenant-local");
    let (line, headers, body) = seen.lock().unwrap().remove(0);
    assert_eq!(line, "POST /v1/endpoint/enroll");
    assert_eq!(headers[header::AUTHORIZATION], format!("Bearer {TOKEN}"));
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(headers[header::HOST], address.to_string());
    let body: Value = serde_json::from_slice(&body).unwrap();
    let key = "+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s=";
    let wanted =
        json!({"public_key": key, "os": "linux", "arch": "x86_64", "agent_version": "1.2.3"});
    assert_eq!(body, wanted);
}

#[tokio::test]
async fn each_refusal_is_told_apart() {
    let code = |code: &str| json!({ "code": code }).to_string();
    macro_rules! refused {
        ($status:expr, $body:expr, $wanted:pat) => {
            let error = answer($status, $body).await.unwrap_err();
            assert!(matches!(&error, $wanted), "{} gave {error:?}", $status);
        };
    }
    refused!(404, code("TOKEN_NOT_FOUND"), EnrollError::UnknownToken);
    refused!(409, code("TOKEN_ALREADY_CONSUMED"), EnrollError::UsedToken);
    refused!(409, code("TOKEN_EXPIRED"), EnrollError::ExpiredToken);
    refused!(410, "gone", EnrollError::ExpiredToken);
    refused!(401, code("AUTH_INVALID_PROOF"), EnrollError::NoToken);
    refused!(400, code("INVALID_PUBLIC_KEY"), EnrollError::PublicKeyRefused);
    refused!(400, code("INVALID_JSON"), EnrollError::RequestRefused);
    refused!(429, "", EnrollError::TooMany);
    refused!(307, "", EnrollError::Redirected { .. });
    refused!(502, "<html>", EnrollError::RelayFault { .. });
    refused!(404, "<html>", EnrollError::NotARelay { .. });
    refused!(405, code("METHOD_NOT_ALLOWED"), EnrollError::NotARelay { .. });
    let message = json!({"code": "INTERNAL_ERROR", "message": "Cannot read\n\u{1b}[31m"});
    let error = answer(500, message).await.unwrap_err();
    assert!(matches!(&error, EnrollError::RelayFault { .. }), "{error:?}");
    assert!(!error.to_string().contains(char::is_control), "{error}");
}

#[tokio::test]
async fn success_without_a_sound_identity_is_no_success() {
    let changed = |field: &str, value: Value| {
        let mut body = good();
        body[field] = value;
        body
    };
    for body in [
        json!({}),
        json!([]),
        changed("endpoint_id", json!("tenant-local")),
        changed("endpoint_id", json!(7)),
        changed("tenant_id", json!("")),
        changed("tenant_id", json!("a\nb")),
        changed("tenant_id", json!("t".repeat(257))),
        changed("registered_at", json!("yesterday")),
        changed("filler", json!("x".repeat(MAX_ANSWER))),
    ] {
        let error = answer(200, &body).await.unwrap_err();
        assert!(matches!(&error, EnrollError::Unusable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_and_one_that_babbles_is_not_read_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limit = Duration::from_millis(100);
    let error = enroll_at(listener.local_addr().unwrap(), limit).await.unwrap_err();
    assert!(matches!(&error, EnrollError::TooSlow { .. }), "{error:?}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(b"RFB 003.008\n").await.is_ok() {}
    });
    let error = enroll_at(address, Duration::from_secs(10)).await.unwrap_err();
    assert!(matches!(&error, EnrollError::Broken { .. }), "{error:?}");
}

#[test]
fn a_token_is_trimmed_checked_and_never_shown() {
    let token = BootstrapToken::parse(&format!(" {TOKEN}\n")).unwrap();
    assert_eq!(token.0.as_str(), TOKEN);
    assert!(!format!("{token:?}").contains(TOKEN));
    for text in ["", " \n", "a b", "a\u{e9}", "a\r\nHost: x", &"a".repeat(MAX_TOKEN + 1)] {
        assert!(matches!(BootstrapToken::parse(text), Err(EnrollError::NotAToken)), "{text}");
    }
}

proptest! {
    #[test]
    fn any_answer_is_read_or_refused(status in 100_u16..1000, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_enrolled(&body);
        let _ = refusal::read(StatusCode::from_u16(status).unwrap(), &body).to_string();
    }
}
