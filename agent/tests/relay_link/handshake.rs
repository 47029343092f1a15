//! From connection to session, and every way to be refused.

use std::time::Duration;

use brainstorm_agent::relay::{LinkEnd, LinkStatus, RelayUrl};
use protocol::Timestamp;
use rcgen::generate_simple_self_signed;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Agent, Connection, TestRelay, assert_proof, frame, quick, soon};

/// Several pings would fit into this, and much else that must not be sent.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn the_hello_comes_first_and_nothing_before_the_ack() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let mut connection = relay.accept().await;
    let public = agent.holder.public();
    assert_eq!(connection.hello["endpoint_id"], public.endpoint_id);
    assert_eq!(connection.hello["tenant_id"], public.tenant_id);
    assert_eq!(connection.hello["agent_version"], "1.2.3");
    assert_eq!(connection.hello["agent_protocol_version"], "v1");
    assert_proof(&connection.hello, &agent.holder);

    let mut byte = [0; 1];
    let silent = timeout(A_WHILE, connection.socket.get_mut().read(&mut byte)).await;
    assert!(silent.is_err(), "a frame before the ack ends the connection at a relay");
    assert!(agent.sessions.is_empty());

    connection.acknowledge().await;
    let session = agent.session().await;
    assert_eq!(*session.id, *connection.session);
    let connected = agent.status(|status| matches!(status, LinkStatus::Connected { .. })).await;
    assert!(matches!(connected, LinkStatus::Connected { session: id, .. } if id == session.id));
    // The positive control of the silence above.
    assert!(timeout(A_WHILE, connection.socket.get_mut().read(&mut byte)).await.is_ok());
}

/// The status after a relay closed the connection in place of the ack, with an hour as the longest
/// wait.
async fn refused(code: u16, reason: &'static str) -> (i64, String) {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |config| {
        config.backoff.most = Duration::from_secs(3600);
        config.backoff.floor = Duration::from_secs(3600);
    });
    let mut connection = relay.accept().await;
    connection.close(code, reason).await;
    connection.until_hung_up().await;
    match agent.status(|status| matches!(status, LinkStatus::Waiting { .. })).await {
        LinkStatus::Waiting { until, reason, failures: 1 } => {
            (until.millis() - Timestamp::now().millis(), reason.to_string())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refused_endpoint_says_what_to_do_and_comes_back_late() {
    for (reason, advice) in [
        ("ENDPOINT_NOT_ENROLLED", "enroll"),
        ("ENDPOINT_PROOF_INVALID", "enroll"),
        ("ENDPOINT_PROOF_EXPIRED", "clock is behind"),
        ("ENDPOINT_PROOF_FUTURE_DATED", "clock is ahead"),
        ("ENDPOINT_PROOF_MALFORMED", "ask whoever runs the relay"),
        ("unknown path: /v2", "path"),
    ] {
        let (wait, text) = refused(1008, reason).await;
        assert!(wait > 30 * 60 * 1000, "{reason}: {wait} ms");
        assert!(text.contains(reason) && text.contains(advice), "{text}");
    }
    // Anything else is tried again soon.
    for (code, reason) in [(1003, "first frame must be EndpointHello"), (1001, "server shutdown")] {
        let (wait, _) = refused(code, reason).await;
        assert!(wait < 60 * 1000, "{reason}: {wait} ms");
    }
}

#[tokio::test]
async fn an_ack_that_never_comes_is_given_up() {
    let relay = TestRelay::start().await;
    let mut agent =
        Agent::start(&relay, |config| config.hello_timeout = Duration::from_millis(200));
    let mut connection = relay.accept().await;
    connection.until_hung_up().await;
    relay.accept_session().await;
    agent.session().await;
}

#[tokio::test]
async fn what_answers_neither_http_nor_anything_is_given_up() {
    let relay = TestRelay::start().await;
    let mut agent =
        Agent::start(&relay, |config| config.hello_timeout = Duration::from_millis(200));
    let silent = relay.accept_tcp().await;
    let mut babbling = relay.accept_tcp().await;
    babbling.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let status =
        agent.status(|status| matches!(status, LinkStatus::Waiting { failures: 2, .. })).await;
    assert!(matches!(&status, LinkStatus::Waiting { reason, .. } if reason.contains("404")));
    relay.accept_session().await;
    agent.session().await;
    drop(silent);
}

#[tokio::test]
async fn nothing_is_taken_from_a_relay_that_has_not_acknowledged() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let session = uuid::Uuid::new_v4().to_string();
    for before_ack in [
        Message::text(r#"{"type":"CommandEnvelope"}"#),
        Message::text("junk"),
        Message::binary(vec![1, 2, 3]),
        Message::text(json!({"type": "EndpointHelloAck", "session_id": session, "server_protocol_version": "v2"}).to_string()),
        Message::text(json!({"type": "EndpointHelloAck", "session_id": "7", "server_protocol_version": "v1"}).to_string()),
    ] {
        let mut connection = relay.accept().await;
        futures_util::SinkExt::send(&mut connection.socket, before_ack).await.unwrap();
        assert!(matches!(connection.message().await, Some(Message::Close(Some(_)))));
        connection.until_hung_up().await;
    }
    relay.accept_session().await;
    agent.session().await;
    assert!(agent.frames.is_empty() && agent.sessions.is_empty());
}

#[tokio::test]
async fn the_session_runs_over_tls() {
    let issued = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, issued.cert.pem()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(server));

    let relay = TestRelay::start().await;
    let url = format!("wss://localhost:{}", relay.address.port());
    let mut trusting = Agent::start_with(quick(&url), Some(ca_file));
    let stream = soon(acceptor.accept(relay.accept_tcp().await)).await.unwrap();
    let mut connection = Box::pin(Connection::greeted(stream)).await;
    connection.acknowledge().await;
    let session = trusting.session().await;
    soon(session.send(frame(&session, "over TLS"))).await.unwrap();
    assert_eq!(connection.receive().await["payload"], "over TLS");
    trusting.stop.send_replace(true);
    assert!(matches!(soon(trusting.link).await.unwrap(), LinkEnd::Stopped));

    let mut distrustful = Agent::start_with(quick(&url), None);
    assert!(acceptor.accept(relay.accept_tcp().await).await.is_err());
    let status = distrustful.status(|status| matches!(status, LinkStatus::Waiting { .. })).await;
    let LinkStatus::Waiting { reason, .. } = status else { unreachable!() };
    assert!(reason.contains("authorit"), "{reason}");
}

#[test]
fn a_plain_relay_elsewhere_is_not_even_a_setting() {
    assert!(RelayUrl::parse("ws://relay.example", false).is_err());
}
