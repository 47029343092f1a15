use super::*;

fn config() -> LinkConfig {
    let url = RelayUrl::parse("wss://relay.example", false).unwrap();
    let mut config = LinkConfig::new(url, "0");
    config.backoff.jitter = 0.0;
    config
}

fn refused() -> SessionEnd {
    SessionEnd::Refused { reason: "ENDPOINT_NOT_ENROLLED".to_owned() }
}

/// The waits in seconds after sessions of this length that all ended the same way.
fn waits(end: &SessionEnd, lived: &[u64]) -> Vec<u64> {
    let mut patience = Patience::default();
    let config = config();
    let wait = |seconds: &u64| patience.after(end, Duration::from_secs(*seconds), &config);
    lived.iter().map(wait).map(|wait| wait.as_secs()).collect()
}

#[test]
fn waits_double_and_only_a_session_that_lived_begins_them_anew() {
    let waited = waits(&SessionEnd::Shutdown, &[0, 0, 29, 0, 30, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(waited, [1, 2, 4, 8, 1, 2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn a_refusal_waits_longest_at_once() {
    assert_eq!(waits(&refused(), &[0, 0]), [60, 60]);
}

#[test]
fn two_agents_with_one_identity_meet_less_and_less_often() {
    let mut config = config();
    let mut patience = Patience::default();
    let mut lived = Duration::ZERO;
    let mut pauses = Vec::new();
    for _ in 0..7 {
        // The other one lives through this one's pause, and then this one through the other's.
        lived = patience.after(&SessionEnd::Replaced, lived, &config);
        pauses.push(lived.as_secs());
    }
    assert_eq!(pauses, [60, 120, 240, 480, 900, 900, 900]);
    assert_eq!(waits(&SessionEnd::Replaced, &[0, 0, 3600]), [60, 120, 60]);
    config.backoff.jitter = 0.2;
    for _ in 0..64 {
        let pause = Patience::default().after(&SessionEnd::Replaced, Duration::ZERO, &config);
        assert!((60..=72).contains(&pause.as_secs()), "{pause:?}");
    }
}
