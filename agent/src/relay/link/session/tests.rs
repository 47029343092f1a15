use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn frame(number: usize) -> String {
    format!(r#"{{"type":"CommandAck","session_id":"s","number":{number}}}"#)
}

/// Writes what is queued, as the writing end does.
fn write_all(outbox: &mut Outbox) -> Vec<String> {
    let mut texts = Vec::new();
    while let Ok(outgoing) = outbox.queue.try_recv() {
        let (text, receipt) = outgoing.into_parts();
        texts.push(text);
        outbox.wrote([receipt]);
    }
    texts
}

async fn sent(session: &Session, outbox: &mut Outbox, number: usize) -> Sent {
    let sending = session.send(frame(number));
    tokio::pin!(sending);
    assert!(timeout(Duration::from_millis(20), &mut sending).await.is_err(), "not written yet");
    assert_eq!(write_all(outbox), [frame(number)]);
    sending.await.unwrap()
}

#[tokio::test]
async fn a_pong_confirms_what_was_written_before_its_ping_and_nothing_later() {
    let (session, mut outbox, confirmations) = open("s", FrameBound::default());
    let first = sent(&session, &mut outbox, 1).await;
    let ping = outbox.ping();
    let second = sent(&session, &mut outbox, 2).await;
    confirmations.pong(&ping);
    session.confirmed(first).await.unwrap();
    let second = session.confirmed(second);
    tokio::pin!(second);
    assert!(timeout(Duration::from_millis(20), &mut second).await.is_err());
    assert!(outbox.wants_ping());
    confirmations.pong(&outbox.ping());
    second.await.unwrap();
}

#[tokio::test]
async fn a_pong_that_answers_no_ping_confirms_nothing() {
    let (session, mut outbox, confirmations) = open("s", FrameBound::default());
    let first = sent(&session, &mut outbox, 1).await;
    for payload in [&9_u64.to_be_bytes()[..], &[0xff; 8], &1_u64.to_be_bytes(), b"", b"123456789"] {
        confirmations.pong(payload);
    }
    assert!(timeout(Duration::from_millis(20), session.confirmed(first)).await.is_err());
    drop(confirmations);
    assert_eq!(session.confirmed(first).await, Err(SessionOver));
}

#[tokio::test]
async fn a_receipt_is_good_in_its_session_only() {
    let (old, mut outbox, confirmations) = open("s", FrameBound::default());
    let receipt = sent(&old, &mut outbox, 1).await;
    confirmations.pong(&outbox.ping());
    let (new, mut outbox, confirmations) = open("s", FrameBound::default());
    sent(&new, &mut outbox, 1).await;
    confirmations.pong(&outbox.ping());
    assert_eq!(new.confirmed(receipt).await, Err(SessionOver));
    assert_eq!(old.confirmed(receipt).await, Ok(()));
}

/// Queues frames until there is no room; gives their number.
async fn filled(session: &Session, frame: impl Fn() -> String) -> usize {
    let mut count = 0;
    while let Ok(posted) = timeout(Duration::from_secs(1), session.post(frame())).await {
        posted.unwrap();
        count += 1;
    }
    count
}

#[tokio::test]
async fn the_queue_is_bounded_in_frames_and_bytes_and_its_end_frees_all_who_wait() {
    let (session, outbox, _confirmations) = open("s", FrameBound::default());
    let full = filled(&session, || frame(1)).await;
    assert_eq!((full, outbox.queue.len()), (QUEUE_FRAMES, QUEUE_FRAMES));
    let (long, outbox_of_long, _confirmations) = open("s", FrameBound::new(MAX_FRAME_BYTES));
    let text = format!(r#"{{"type":"X","session_id":"s","x":"{}"}}"#, "x".repeat((1 << 20) - 64));
    assert_eq!(filled(&long, || text.clone()).await, 4);

    let waiting = [session.clone(), long.clone()]
        .map(|session| tokio::spawn(async move { session.send(frame(1)).await }));
    tokio::task::yield_now().await;
    drop((outbox, outbox_of_long));
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), Err(SendError::Over(SessionOver)));
    }
    assert!(session.is_over() && long.is_over());
}

#[tokio::test]
async fn what_would_harm_a_relay_is_not_queued() {
    let (session, outbox, _confirmations) = open("s", FrameBound::new(MAX_FRAME_BYTES));
    let long = format!("[{}]", "1,".repeat(LONG_FRAME));
    for text in ["null".to_owned(), long] {
        assert!(matches!(session.send(text).await, Err(SendError::Refused(_))));
    }
    assert!(outbox.queue.is_empty());
}
