//! Frames both ways.

use std::time::Duration;

use brainstorm_agent::relay::SendError;
use brainstorm_agent::relay::link::MAX_CONCURRENT_FRAMES;
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Agent, TestRelay, frame, soon};

const NIL: &str = "00000000-0000-0000-0000-000000000000";
const ID: &str = "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab";

fn envelope(number: usize) -> String {
    json!({"type": "CommandEnvelope", "number": number}).to_string()
}

#[tokio::test]
async fn commands_reach_the_handler_as_they_came() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let mut connection = relay.accept_session().await;
    let text = "{ \"type\" : \"CommandEnvelope\", \"params\": {\"e\u{301}\": 1.0} }";
    connection.send(text).await;
    let (session, received) = soon(agent.frames.recv()).await.unwrap();
    assert_eq!(received, text);
    assert_eq!(*session.id, *connection.session);
}

#[tokio::test]
async fn everything_that_is_no_command_is_answered_and_ends_nothing() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let mut connection = relay.accept_session().await;
    let endpoint = agent.holder.public().endpoint_id.clone();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let named = json!({"type": "Surprise", "command_id": ID}).to_string();
    let cases = [
        (Message::text("junk"), NIL),
        (Message::text(""), NIL),
        (Message::text("null"), NIL),
        (Message::text("[1]"), NIL),
        (Message::text("{}"), NIL),
        (Message::text(deep), NIL),
        (Message::text("{\"type\":\"CommandEnvelope\",\"a\":1e400"), NIL),
        (Message::text(named), ID),
        (Message::text(format!("{}{}", " ".repeat(2 << 20), "x")), NIL),
        (Message::binary(envelope(1).into_bytes()), NIL),
        (Message::binary(vec![0xff; 1000]), NIL),
        (Message::text(json!({"type": "HealthPing"}).to_string()), NIL),
        (Message::text(json!({"type": "EndpointHelloAck"}).to_string()), NIL),
    ];
    for (message, command_id) in cases {
        let shown = format!("{message:?}").chars().take(60).collect::<String>();
        soon(connection.socket.send(message)).await.unwrap();
        let event = connection.receive().await;
        assert_eq!(event["type"], "ErrorEvent", "{shown}");
        assert_eq!(event["code"], "ENDPOINT_SCHEMA_INVALID", "{shown}");
        assert_eq!(event["command_id"], command_id, "{shown}");
        assert_eq!(event["session_id"], connection.session, "{shown}");
        assert_eq!(event["endpoint_id"], endpoint, "{shown}");
    }
    // The relay's own errors are noted, and not answered: two agents of good manners would never
    // stop.
    connection.send(json!({"type": "ErrorEvent", "code": "X", "message": "m"}).to_string()).await;
    connection.send(envelope(2)).await;
    assert_eq!(soon(agent.frames.recv()).await.unwrap().1, envelope(2));
    assert!(agent.frames.is_empty());
}

#[tokio::test]
async fn a_flood_of_junk_is_answered_to_the_last() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let mut connection = relay.accept_session().await;
    for _ in 0..5 {
        for number in 0..500 {
            let junk = Message::text(format!("junk {number}"));
            connection.socket.feed(junk).await.unwrap();
        }
        connection.socket.flush().await.unwrap();
        for _ in 0..500 {
            assert_eq!(connection.receive().await["code"], "ENDPOINT_SCHEMA_INVALID");
        }
    }
    connection.send(envelope(1)).await;
    soon(agent.frames.recv()).await.unwrap();
}

#[tokio::test]
async fn a_relay_that_asks_is_told_how_the_agent_is() {
    let relay = TestRelay::start().await;
    let agent = Agent::start(&relay, |_| {});
    let mut connection = relay.accept_session().await;
    let ping = json!({"type": "HealthPing", "ping_id": "p-1", "session_id": connection.session});
    connection.send(ping.to_string()).await;
    let answer = connection.receive().await;
    let Value::String(ts) = &answer["ts"] else { panic!("{answer}") };
    let wanted = json!({"type": "HealthPong", "session_id": connection.session, "ts": ts,
        "ping_id": "p-1", "agent_health": "degraded", "sandbox_state": "resetting",
        "endpoint_id": agent.holder.public().endpoint_id});
    assert_eq!(answer, wanted);
}

#[tokio::test]
async fn frames_arrive_in_order_and_are_confirmed_once_the_relay_has_read_them() {
    let relay = TestRelay::start().await;
    // Only pings that a caller waits for.
    let mut agent = Agent::start(&relay, |config| config.ping_every = Duration::from_secs(3600));
    let mut connection = relay.accept_session().await;
    let session = agent.session().await;
    let mut last = None;
    for number in 0..200 {
        let sent = soon(session.send(frame(&session, &number.to_string()))).await.unwrap();
        last = Some(sent);
    }
    let confirmed = session.confirmed(last.unwrap());
    tokio::pin!(confirmed);
    // They are in the socket, and the relay has read nothing.
    assert!(timeout(Duration::from_millis(300), &mut confirmed).await.is_err());
    for number in 0..200 {
        assert_eq!(connection.receive().await["payload"], number.to_string());
    }
    // Reading on answers the ping.
    tokio::select! {
        confirmed = soon(&mut confirmed) => confirmed.unwrap(),
        message = connection.message() => panic!("{message:?}"),
    }
}

#[tokio::test]
async fn many_senders_share_few_pings() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |config| {
        config.ping_every = Duration::from_secs(3600);
        config.confirm_after = Duration::from_millis(200);
    });
    let mut connection = relay.accept_session().await;
    let session = agent.session().await;
    let senders: Vec<_> = (0..256)
        .map(|number| {
            let session = session.clone();
            tokio::spawn(async move {
                let sent = session.send(frame(&session, &number.to_string())).await.unwrap();
                session.confirmed(sent).await.unwrap();
            })
        })
        .collect();
    let counting = tokio::spawn(async move {
        let mut pings = 0;
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut connection.socket).await {
            pings += usize::from(matches!(message, Message::Ping(_)));
            if matches!(message, Message::Close(_)) {
                break;
            }
        }
        pings
    });
    for sender in senders {
        soon(sender).await.unwrap();
    }
    agent.stop.send_replace(true);
    let pings = soon(counting).await.unwrap();
    assert!((1..=64).contains(&pings), "{pings}");
}

#[tokio::test]
async fn what_would_harm_the_relay_is_held_back_and_the_session_goes_on() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let mut connection = relay.accept_session().await;
    let session = agent.session().await;
    for text in ["null", "[]", "{\"type\":\"EndpointHello\"}", "{\"type\":\"X\",\"n\":1e400}"] {
        let refused = soon(session.send(text.to_owned())).await;
        assert!(matches!(refused, Err(SendError::Refused(_))), "{text}");
    }
    soon(session.send(frame(&session, "fine"))).await.unwrap();
    assert_eq!(connection.receive().await["payload"], "fine");
}

#[tokio::test]
async fn reading_stops_while_all_handlers_are_busy_and_that_is_no_silence() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |config| config.dead_after = Duration::from_millis(400));
    let all = agent.handler.gate.forget_permits(usize::MAX);
    let mut connection = relay.accept_session().await;
    let commands = MAX_CONCURRENT_FRAMES + 500;
    let sending = tokio::spawn(async move {
        for number in 0..commands {
            connection.socket.feed(Message::text(envelope(number))).await.unwrap();
        }
        connection.socket.flush().await.unwrap();
        connection
    });
    let mut running = agent.handler.running.subscribe();
    soon(running.wait_for(|running| *running == MAX_CONCURRENT_FRAMES)).await.unwrap();
    // Much longer than a silent peer lives; the peer answers no pings either.
    let more = timeout(
        Duration::from_secs(2),
        running.wait_for(|running| *running != MAX_CONCURRENT_FRAMES),
    );
    assert!(more.await.is_err());
    assert!(agent.ended.is_empty());

    agent.handler.gate.add_permits(all);
    let mut connection = soon(sending).await.unwrap();
    // Reads on, and so answers pings, as a relay does.
    let relay = tokio::spawn(async move { connection.message().await });
    for _ in 0..commands {
        soon(agent.frames.recv()).await.unwrap();
    }
    assert_eq!(agent.sessions.len(), 1);
    assert!(agent.ended.is_empty());
    relay.abort();
}
