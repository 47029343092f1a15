use super::*;

fn parsed(text: &str) -> Option<i64> {
    Timestamp::parse(text).map(Timestamp::millis)
}

#[test]
fn every_spelling_of_a_moment_is_the_same_moment() {
    const MOMENT: i64 = 1_767_323_045_000;
    for text in [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.0Z",
        "2026-01-02T03:04:05.000000000Z",
        "2026-01-02T03:04:05+00:00",
        "2026-01-02T05:34:05+02:30",
    ] {
        assert_eq!(parsed(text), Some(MOMENT), "{text}");
    }
    assert_eq!(parsed("2026-01-02T03:04:05.678Z"), Some(MOMENT + 678));
    assert_eq!(parsed("2026-01-02T03:04:05.678999999Z"), Some(MOMENT + 678));
    assert_eq!(parsed("1969-12-31T23:59:59.9999Z"), Some(-1), "cut off, not towards zero");
}

#[test]
fn other_texts_are_no_points_in_time() {
    for text in [
        "",
        "2026-01-02",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04Z",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05.0123456789Z",
        "2026-13-02T03:04:05Z",
        "2026-02-30T03:04:05Z",
        "2026-01-02T24:04:05Z",
        " 2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05Z ",
        "+02026-01-02T03:04:05Z",
        "0000-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "1767323045000",
        "now",
    ] {
        assert_eq!(parsed(text), None, "{text}");
    }
}

#[test]
fn it_is_written_with_milliseconds_always() {
    for text in ["2026-01-02T03:04:05.678Z", "0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"]
    {
        assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
    }
    let earliest = Timestamp::from_millis(i64::MIN);
    assert_eq!(earliest.to_string(), "0000-01-01T00:00:00.000Z");
    assert_eq!(earliest.plus_millis(-1), earliest);
    let latest = Timestamp::from_millis(i64::MAX);
    assert_eq!(serde_json::to_value(latest).unwrap(), "9999-12-31T23:59:59.999Z");
    assert_eq!(latest.plus_millis(i64::MAX), latest);
}
