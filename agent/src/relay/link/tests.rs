use super::*;

fn config() -> LinkConfig {
    LinkConfig::new(RelayUrl::parse("wss://relay.example", false).unwrap(), "0")
}

/// The waits in seconds at the end of their intervals, after attempts that all ended the same way:
/// without a session, or after sessions that lived so many seconds.
fn waits(end: &SessionEnd, lived: &[Option<u64>]) -> Vec<u64> {
    let mut patience = Patience::default();
    let config = config();
    let wait =
        |seconds: &Option<u64>| patience.after(end, seconds.map(Duration::from_secs), &config, 1.0);
    lived.iter().map(wait).map(|wait| wait.as_secs()).collect()
}

fn broken() -> SessionEnd {
    SessionEnd::Broken { detail: "it hung up".to_owned() }
}

#[test]
fn waits_double_and_only_a_session_that_lived_begins_them_anew() {
    assert_eq!(waits(&broken(), &[None; 8]), [1, 2, 4, 8, 16, 32, 60, 60]);
    let lived = [None, None, None, None, None, Some(29), Some(30), None, None];
    assert_eq!(waits(&broken(), &lived), [1, 2, 4, 8, 16, 32, 10, 2, 4]);
}

#[test]
fn a_relay_that_restarts_is_not_met_by_its_fleet_within_a_second() {
    let config = config();
    let ends = [broken(), SessionEnd::Shutdown, SessionEnd::Restart];
    for (end, lived) in ends.iter().flat_map(|end| [(end, Some(3600)), (end, Some(1))]) {
        let waits: Vec<f64> = (0..1000_u32)
            .map(|agent| {
                let chance = f64::from(agent) / 1000.0;
                let lived = lived.map(Duration::from_secs);
                Patience::default().after(end, lived, &config, chance).as_secs_f64()
            })
            .collect();
        for second in 0..10_u32 {
            let from = f64::from(second);
            let met = waits.iter().filter(|wait| (from..from + 1.0).contains(*wait)).count();
            assert!(met <= 110, "{met} of 1000 in second {second} after {end}");
        }
    }
    // Also when the relay says so before the session begins.
    assert_eq!(waits(&SessionEnd::Restart, &[None]), [10]);
}

#[test]
fn a_refusal_waits_longest_at_once() {
    let refused = SessionEnd::Refused { reason: "ENDPOINT_NOT_ENROLLED".to_owned() };
    assert_eq!(waits(&refused, &[None, None]), [60, 60]);
}

#[test]
fn a_relay_with_too_many_connections_is_left_alone_for_long() {
    let busy = SessionEnd::Busy { reason: "too many connections".to_owned() };
    assert_eq!(waits(&busy, &[None; 6]), [130, 250, 490, 910, 910, 910]);
    let shortest = Patience::default().after(&busy, None, &config(), 0.0);
    assert!(shortest >= Duration::from_secs(10), "{shortest:?}");
}

#[test]
fn two_agents_with_one_identity_meet_less_and_less_often() {
    let config = config();
    let mut patience = Patience::default();
    let mut lived = Duration::ZERO;
    let mut pauses = Vec::new();
    for _ in 0..7 {
        // The other one lives through this one's pause, and then this one through the other's.
        lived = patience.after(&SessionEnd::Replaced, Some(lived), &config, 0.0);
        pauses.push(lived.as_secs());
    }
    assert_eq!(pauses, [60, 120, 240, 480, 900, 900, 900]);
    assert_eq!(waits(&SessionEnd::Replaced, &[Some(0), Some(0), Some(3600)]), [120, 240, 120]);
}
