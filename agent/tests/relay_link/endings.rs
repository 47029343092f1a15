//! Every way a session ends.

use std::time::Duration;

use brainstorm_agent::relay::{FrameFault, LinkEnd, LinkStatus, SendError, Session};
use futures_util::SinkExt;
use protocol::Timestamp;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::{Agent, TestRelay, frame, soon};

#[tokio::test]
async fn a_replaced_session_is_not_fought_over() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |config| {
        config.replaced_pause = Duration::from_secs(1);
        config.replaced_most = Duration::from_secs(3600);
    });
    let mut pauses = Vec::new();
    for _ in 0..2 {
        let mut connection = relay.accept_session().await;
        agent.session().await;
        connection.close(1000, "replaced by reconnect").await;
        connection.until_hung_up().await;
        match agent.status(|status| matches!(status, LinkStatus::Replaced { .. })).await {
            LinkStatus::Replaced { until, reason } => {
                assert!(reason.contains("another agent"), "{reason}");
                pauses.push(until.millis() - Timestamp::now().millis());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(pauses[1] > pauses[0] + 500, "{pauses:?}");
    // The usual waits are far shorter.
    assert!(timeout(Duration::from_millis(500), relay.accept_session()).await.is_err());
}

#[tokio::test]
async fn a_close_closes_the_connection_even_when_the_relay_leaves_it_open() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    for (code, reason) in
        [(1000, ""), (1001, "server shutdown"), (1003, "invalid JSON"), (4000, "x")]
    {
        let mut connection = relay.accept_session().await;
        let session = agent.session().await;
        connection.close(code, reason).await;
        match connection.message().await {
            Some(Message::Close(Some(frame))) => assert_eq!(frame.code, CloseCode::from(code)),
            other => panic!("{other:?}"),
        }
        // The agent's end, with the relay's still open.
        connection.until_hung_up().await;
        let sent = soon(session.send(frame(&session, "late"))).await;
        assert!(matches!(sent, Err(SendError::Over(_))));
        soon(agent.ended.recv()).await.unwrap();
        // And it is the agent's whole end, soon, not half of it.
        let stream = connection.socket.get_mut();
        let whole = async {
            while tokio::io::AsyncWriteExt::write_all(stream, &[0; 1024]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon(whole).await;
    }
    relay.accept_session().await;
    agent.session().await;
}

#[tokio::test]
async fn a_relay_that_restarts_gets_a_new_session() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let connection = relay.accept_session().await;
    let first = agent.session().await;
    let address = relay.address;
    // As a process that is killed: no Close frame, and no process listens.
    drop((relay, connection));
    agent.status(|status| matches!(status, LinkStatus::Waiting { failures: 3.., .. })).await;
    let relay = TestRelay::start_at(address).await;
    let mut connection = relay.accept_session().await;
    let second = agent.session().await;
    assert_ne!(first.id, second.id);
    soon(second.send(frame(&second, "back"))).await.unwrap();
    assert_eq!(connection.receive().await["payload"], "back");
    // A frame that still carries the old session is never sent in the new one.
    let stale = soon(second.send(frame(&first, "stale"))).await;
    assert!(matches!(stale, Err(SendError::Refused(_))));
}

#[tokio::test]
async fn what_is_no_websocket_any_more_ends_the_session_and_not_the_agent() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let too_long = vec![b' '; (16 << 20) + 1];
    let mut connection = relay.accept_session().await;
    agent.session().await;
    // It may hang up in the middle.
    let _ = soon(connection.socket.send(Message::binary(too_long))).await;
    connection.until_hung_up().await;

    let broken: [&[u8]; 4] = [
        // A masked frame, a reserved opcode, a fragmented ping, text that is not UTF-8.
        &[0x81, 0x81, 1, 2, 3, 4, 5],
        &[0x83, 0x00],
        &[0x09, 0x00],
        &[0x81, 0x02, 0xc3, 0x28],
    ];
    for bytes in broken {
        let mut connection = relay.accept_session().await;
        agent.session().await;
        let stream = connection.socket.get_mut();
        soon(tokio::io::AsyncWriteExt::write_all(stream, bytes)).await.unwrap();
        assert!(matches!(connection.message().await, Some(Message::Close(Some(_)))), "{bytes:x?}");
        connection.until_hung_up().await;
    }
    relay.accept_session().await;
    agent.session().await;
}

#[tokio::test]
async fn stopping_writes_what_is_queued_says_goodbye_and_hangs_up() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let mut connection = relay.accept_session().await;
    let session = agent.session().await;
    let padding = "x".repeat(32 << 10);
    let senders: Vec<_> = (0..100)
        .map(|_| {
            let (session, text) = (session.clone(), frame(&session, &padding));
            tokio::spawn(async move { session.send(text).await })
        })
        .collect();
    tokio::task::yield_now().await;
    agent.stop.send_replace(true);
    let mut frames = 0;
    let farewell = loop {
        match connection.message().await {
            Some(Message::Text(_)) => frames += 1,
            other => break other,
        }
    };
    assert!(
        matches!(&farewell, Some(Message::Close(Some(frame))) if frame.code == CloseCode::Normal),
        "{farewell:?}"
    );
    connection.until_hung_up().await;
    assert!(matches!(soon(agent.link).await.unwrap(), LinkEnd::Stopped));
    assert_eq!(*agent.status.borrow(), LinkStatus::Stopped);
    let mut sent = 0;
    for sender in senders {
        sent += usize::from(soon(sender).await.unwrap().is_ok());
    }
    // Whoever was told that a frame was written was told the truth.
    assert_eq!(sent, frames);
    assert!(sent > 0);
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_relay_that_takes_nothing() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |config| config.drain = Duration::from_millis(200));
    let _stalled = relay.accept_session().await;
    let session = agent.session().await;
    let sender = tokio::spawn({
        let text = frame(&session, &"x".repeat(12 << 20));
        async move { session.send(text).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    agent.stop.send_replace(true);
    assert!(matches!(soon(agent.link).await.unwrap(), LinkEnd::Stopped));
    assert!(soon(sender).await.unwrap().is_err());
}

#[tokio::test]
async fn stopping_works_while_there_is_no_session() {
    let relay = TestRelay::start().await;
    let address = relay.address;
    let mut agent = Agent::start(&relay, |config| {
        config.backoff.first = Duration::from_secs(3600);
        config.backoff.most = Duration::from_secs(3600);
        config.backoff.floor = Duration::from_secs(3600);
    });
    let connection = relay.accept_session().await;
    drop((relay, connection));
    agent.status(|status| matches!(status, LinkStatus::Waiting { .. })).await;
    agent.stop.send_replace(true);
    assert!(matches!(soon(agent.link).await.unwrap(), LinkEnd::Stopped));

    let relay = TestRelay::start_at(address).await;
    let agent = Agent::start(&relay, |_| {});
    let mut never_acknowledged = relay.accept().await;
    agent.stop.send_replace(true);
    assert!(matches!(soon(agent.link).await.unwrap(), LinkEnd::Stopped));
    never_acknowledged.until_hung_up().await;
}

#[tokio::test]
async fn what_a_relay_found_too_long_is_never_sent_again() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |_| {});
    let mut connection = relay.accept_session().await;
    let session = agent.session().await;
    let length = |session: &Session, bytes| frame(session, &"x".repeat(bytes));
    soon(session.send(length(&session, 10))).await.unwrap();
    soon(session.send(length(&session, 9000))).await.unwrap();
    connection.receive().await;
    connection.close(1009, "").await;
    soon(agent.ended.recv()).await.unwrap();

    let mut connection = relay.accept_session().await;
    let session = agent.session().await;
    let refused = soon(session.send(length(&session, 9000))).await;
    assert!(matches!(refused, Err(SendError::Refused(FrameFault::TooLong { .. }))), "{refused:?}");
    soon(session.send(length(&session, 500))).await.unwrap();
    assert_eq!(connection.receive().await["payload"].as_str().unwrap().len(), 500);
}
