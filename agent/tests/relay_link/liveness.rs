//! A peer that is gone is noticed, one that is slow is not mistaken for it.

use std::time::Duration;

use brainstorm_agent::relay::{FrameBound, LinkEnd, LinkStatus, SendError, SessionOver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::accept_async;

use crate::support::{Agent, TestRelay, frame, soon};

/// A frame that fills every buffer between the two.
const LONG: usize = 12 << 20;

#[tokio::test]
async fn a_relay_that_neither_reads_nor_answers_is_left() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |config| config.dead_after = Duration::from_millis(400));
    let half_open = relay.accept_session().await;
    let session = agent.session().await;
    let sent = soon(session.send(frame(&session, "lost"))).await.unwrap();
    assert_eq!(soon(session.confirmed(sent)).await, Err(SessionOver));
    assert_eq!(soon(agent.ended.recv()).await.unwrap(), half_open.session);
    assert!(session.is_over());
    let status = agent.status(|status| matches!(status, LinkStatus::Waiting { .. })).await;
    assert!(matches!(&status, LinkStatus::Waiting { reason, .. } if reason.contains("heard")));
    relay.accept_session().await;
    agent.session().await;
}

#[tokio::test]
async fn a_relay_that_answers_pings_lives_without_a_frame() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |config| config.dead_after = Duration::from_millis(400));
    let mut connection = relay.accept_session().await;
    let session = agent.session().await;
    let quiet = tokio::time::timeout(Duration::from_secs(2), connection.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(!session.is_over() && agent.ended.is_empty());
}

#[tokio::test]
async fn a_relay_that_talks_but_takes_nothing_is_left_and_no_task_hangs() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |config| {
        config.dead_after = Duration::from_millis(400);
        config.frame_bound = FrameBound::new(LONG + 1024);
    });
    let mut connection = relay.accept_session().await;
    let session = agent.session().await;
    // A single thread's worth of unsolicited pongs, so that it is never silent.
    let talking = tokio::spawn(async move {
        let stream = connection.socket.get_mut();
        while stream.write_all(&[0x8a, 0x00]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let text = frame(&session, &"x".repeat(LONG));
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let (session, text) = (session.clone(), text.clone());
            tokio::spawn(async move { session.send(text).await })
        })
        .collect();
    for sender in senders {
        assert_eq!(soon(sender).await.unwrap(), Err(SendError::Over(SessionOver)));
    }
    soon(agent.ended.recv()).await.unwrap();
    let status = agent.status(|status| matches!(status, LinkStatus::Waiting { .. })).await;
    assert!(
        matches!(&status, LinkStatus::Waiting { reason, .. } if reason.contains("took nothing"))
    );
    soon(talking).await.unwrap();
    relay.accept_session().await;
    agent.session().await;
}

#[tokio::test]
async fn a_long_upload_to_a_slow_relay_is_no_death() {
    let relay = TestRelay::start().await;
    let mut agent = Agent::start(&relay, |config| {
        config.dead_after = Duration::from_millis(800);
        config.frame_bound = FrameBound::new(LONG + 1024);
    });
    let mut connection = relay.accept_session().await;
    let session = agent.session().await;
    let text = frame(&session, &"x".repeat(LONG));
    let sender = tokio::spawn(async move { session.send(text).await });
    // It takes a bit at a time, for much longer than a silent peer lives, and says nothing.
    let mut taken = 0;
    let mut buffer = vec![0; 256 << 10];
    while taken < LONG {
        let bytes = soon(connection.socket.get_mut().read(&mut buffer)).await.unwrap();
        assert!(bytes > 0, "the agent left after {taken} bytes");
        taken += bytes;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    soon(sender).await.unwrap().unwrap();
    assert_eq!(agent.sessions.len(), 0);
}

#[tokio::test]
async fn a_key_holder_that_dies_ends_the_link() {
    let relay = TestRelay::start().await;
    let agent = Agent::start(&relay, |_| {});
    let mut connection = relay.accept_session().await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(agent.holder.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    connection.close(1001, "server shutdown").await;
    // The next attempt comes as far as the proof.
    let _socket = soon(accept_async(relay.accept_tcp().await)).await.unwrap();
    let end = soon(agent.link).await.unwrap();
    assert!(matches!(end, LinkEnd::KeyHolderLost(_)), "{end:?}");
}
