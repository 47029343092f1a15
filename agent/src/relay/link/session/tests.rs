use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn frame(number: usize) -> String {
    format!(r#"{{"type":"CommandAck","session_id":"s","number":{number}}}"#)
}

/// Writes what is queued, as the writing end does.
fn write_all(outbox: &mut Outbox) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(outgoing) = outbox.next_waiting() {
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
    assert_eq!((full, outbox.urgent.len()), (QUEUE_FRAMES, QUEUE_FRAMES));
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
    assert!(outbox.urgent.is_empty());
}

#[tokio::test]
async fn results_let_all_other_frames_go_first() {
    let (session, mut outbox, _confirmations) = open("s", FrameBound::default());
    let results = [1, 2].map(|number| {
        let session = session.clone();
        tokio::spawn(async move { session.send_result(frame(number)).await })
    });
    while outbox.results.len() < 2 {
        tokio::task::yield_now().await;
    }
    session.post(frame(3)).await.unwrap();
    session.post(frame(4)).await.unwrap();
    let first = outbox.next().await.unwrap();
    assert_eq!(first.text, frame(3));
    assert_eq!(write_all(&mut outbox), [frame(4), frame(1), frame(2)]);
    for result in results {
        result.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_full_lane_of_results_stops_no_acknowledgement() {
    let (session, mut outbox, _confirmations) = open("s", FrameBound::default());
    for number in 0..=QUEUE_FRAMES {
        let session = session.clone();
        tokio::spawn(async move { session.send_result(frame(number)).await });
    }
    while outbox.results.len() < QUEUE_FRAMES {
        tokio::task::yield_now().await;
    }
    timeout(Duration::from_secs(30), session.post(frame(0))).await.unwrap().unwrap();
    assert_eq!(outbox.next().await.unwrap().text, frame(0));
}

#[tokio::test]
async fn a_frame_whose_time_is_over_is_not_written() {
    let (session, mut outbox, _confirmations) = open("s", FrameBound::default());
    let (late, in_time) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
    let sending = [late, in_time].map(|before| {
        let session = session.clone();
        tokio::spawn(async move { session.send_before(frame(1), before).await })
    });
    while outbox.urgent.len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(write_all(&mut outbox), [frame(1)]);
    let [late, in_time] = sending;
    assert_eq!(late.await.unwrap(), Err(SendError::Late));
    in_time.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_receipt_that_never_comes_has_an_end() {
    let (session, mut outbox, confirmations) = open("s", FrameBound::default());
    let limit = Duration::from_millis(20);
    let overdue = || timeout(limit * 5, session.unconfirmed_for(limit));
    assert!(overdue().await.is_err(), "nobody waits for one");
    let first = sent(&session, &mut outbox, 1).await;
    let waiting = tokio::spawn({
        let session = session.clone();
        async move { session.confirmed(first).await }
    });
    while !outbox.wants_ping() {
        tokio::task::yield_now().await;
    }
    timeout(Duration::from_secs(30), session.unconfirmed_for(limit)).await.unwrap();
    confirmations.pong(&outbox.ping());
    waiting.await.unwrap().unwrap();
    assert!(overdue().await.is_err(), "it has come");
}
