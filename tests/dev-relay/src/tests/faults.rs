use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use protocol::timestamp::Timestamp;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::LONG;
use super::fake::{Endpoint, Identity, Wire};
use crate::{Config, DevRelay, Farewell, Faults, FrameBody, HelloAnswer, Raw};

async fn pair() -> (DevRelay, Identity, Endpoint) {
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let identity = Identity::enrolled(&relay);
    let endpoint = Endpoint::connect(&relay, &identity).await;
    (relay, identity, endpoint)
}

fn is_reset(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionReset
}

#[tokio::test]
async fn a_dropped_connection_is_reset() {
    let (relay, identity, mut endpoint) = pair().await;
    relay.drop_connection(&identity.endpoint_id).unwrap();
    match endpoint.wire.0.next().await {
        Some(Err(Error::Io(error))) => assert!(is_reset(&error), "{error}"),
        other => panic!("a reset, not {other:?}"),
    }
    assert!(relay.wait_for_disconnect(&identity.endpoint_id, LONG).await);
}

#[tokio::test]
async fn a_relay_that_does_not_read_answers_no_ping_until_it_does() {
    let (relay, identity, mut endpoint) = pair().await;
    relay.stop_reading(&identity.endpoint_id).unwrap();
    endpoint.wire.0.send(Message::Ping("one".into())).await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(200), endpoint.wire.0.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(relay.session(&identity.endpoint_id).is_some());
    relay.resume_reading(&identity.endpoint_id).unwrap();
    let pong = endpoint.wire.message().await.unwrap();
    assert_eq!(pong, Message::Pong("one".into()));
    assert!(relay.frames().iter().any(|frame| matches!(frame.body, FrameBody::Ping)));
    // A stalled connection can be ended all the same.
    relay.stop_reading(&identity.endpoint_id).unwrap();
    relay.drop_connection(&identity.endpoint_id).unwrap();
    assert!(relay.wait_for_disconnect(&identity.endpoint_id, LONG).await);
}

#[tokio::test]
async fn raw_frames_arrive_as_they_are() {
    let (relay, identity, mut endpoint) = pair().await;
    let send = |raw| relay.send_raw(&identity.endpoint_id, raw).unwrap();
    send(Raw::Text("junk".into()));
    send(Raw::Binary(vec![0, 159]));
    send(Raw::Ping(vec![1]));
    assert_eq!(endpoint.wire.message().await, Some(Message::text("junk")));
    assert_eq!(endpoint.wire.message().await, Some(Message::binary(vec![0, 159])));
    assert_eq!(endpoint.wire.message().await, Some(Message::Ping(vec![1].into())));
    // A frame with a reserved opcode.
    send(Raw::Bytes(vec![0x83, 0]));
    assert!(matches!(endpoint.wire.0.next().await, Some(Err(Error::Protocol(_)))));

    let mut endpoint = Endpoint::connect(&relay, &identity).await;
    relay.send_raw(&identity.endpoint_id, Raw::Close(1001, "bye".into())).unwrap();
    assert_eq!(endpoint.wire.closed().await, (1001, "bye".to_owned()));
}

#[tokio::test]
async fn hellos_can_be_refused_or_left_without_an_answer() {
    let (relay, identity, _endpoint) = pair().await;
    let hello = HelloAnswer::Close(1013, "try again later".into());
    relay.set_faults(Faults { hello, ..Faults::default() });
    let mut wire = Wire::connect(&relay, "/v1/endpoint/connect").await;
    wire.send(&identity.hello(&Timestamp::now().to_string())).await;
    assert_eq!(wire.closed().await, (1013, "try again later".to_owned()));

    relay.set_faults(Faults { hello: HelloAnswer::Silence, ..Faults::default() });
    let mut wire = Wire::connect(&relay, "/v1/endpoint/connect").await;
    wire.send(&identity.hello(&Timestamp::now().to_string())).await;
    let quiet = tokio::time::timeout(Duration::from_millis(200), wire.0.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
}

#[tokio::test]
async fn connections_can_be_refused_at_every_stage() {
    let (relay, _identity, _endpoint) = pair().await;
    let address = relay.ws_url().strip_prefix("ws://").unwrap().to_owned();
    let before = relay.connections();

    relay.set_faults(Faults { refuse_connections: true, ..Faults::default() });
    let mut stream = TcpStream::connect(&address).await.unwrap();
    assert!(is_reset(&stream.read(&mut [0; 1]).await.unwrap_err()));

    relay.set_faults(Faults { upgrade_status: Some(503), ..Faults::default() });
    let stream = TcpStream::connect(&address).await.unwrap();
    match client_async(format!("ws://{address}/v1/endpoint/connect"), stream).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("status 503, not {:?}", other.map(|_| ())),
    }

    relay.set_faults(Faults { mute_upgrades: true, ..Faults::default() });
    let stream = TcpStream::connect(&address).await.unwrap();
    let upgrade = client_async(format!("ws://{address}/v1/endpoint/connect"), stream);
    assert!(tokio::time::timeout(Duration::from_millis(200), upgrade).await.is_err());
    assert_eq!(relay.connections(), before + 3);
}

#[tokio::test]
async fn going_down_says_goodbye_or_does_not() {
    let (relay, identity, mut endpoint) = pair().await;
    relay.go_down(Farewell::Goodbye).await;
    assert_eq!(endpoint.wire.closed().await, (1001, "server shutdown".to_owned()));
    let address = relay.ws_url().strip_prefix("ws://").unwrap().to_owned();
    assert!(TcpStream::connect(&address).await.is_err());
    relay.come_up().await.unwrap();
    let mut endpoint = Endpoint::connect(&relay, &identity).await;
    relay.go_down(Farewell::Reset).await;
    match endpoint.wire.0.next().await {
        Some(Err(Error::Io(error))) => assert!(is_reset(&error), "{error}"),
        other => panic!("a reset, not {other:?}"),
    }
}

#[tokio::test]
async fn only_loopback_is_served() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    for config in [
        Config { ws: everywhere, ..Config::default() },
        Config { http: everywhere, ..Config::default() },
    ] {
        let error = DevRelay::start(config).await.unwrap_err();
        assert!(error.to_string().contains("loopback"), "{error}");
    }
}
