//! How long a command may take. The relay does not say, so this machine does.

use protocol::timestamp::Timestamp;
use protocol::verify::MAX_SKEW_MS;

/// Shortest deadline a tool is given, in milliseconds.
pub const MIN_DEADLINE_MS: i64 = 1_000;
/// Longest deadline a tool is given, in milliseconds.
pub const MAX_DEADLINE_MS: i64 = guest::registry::MAX_DEADLINE_MS.cast_signed();

/// Milliseconds a command may take: what its tool may take, within the limits, and no longer than
/// its envelope can hold. An envelope holds until its expiry, and as long after it as the two
/// clocks may differ.
pub fn deadline_ms(tool_ms: u64, expires_at: Timestamp, now: Timestamp) -> i64 {
    let wanted = i64::try_from(tool_ms).unwrap_or(MAX_DEADLINE_MS);
    let left = expires_at.millis().saturating_add(MAX_SKEW_MS).saturating_sub(now.millis());
    wanted.clamp(MIN_DEADLINE_MS, MAX_DEADLINE_MS).min(left.max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn expiring_in(ms: i64) -> Timestamp {
        Timestamp::from_millis(NOW.millis() + ms)
    }

    #[test]
    fn the_tool_decides_within_limits() {
        let later = expiring_in(10_000_000);
        assert_eq!(deadline_ms(30_000, later, NOW), 30_000);
        assert_eq!(deadline_ms(1, later, NOW), MIN_DEADLINE_MS);
        assert_eq!(deadline_ms(0, later, NOW), MIN_DEADLINE_MS);
        assert_eq!(deadline_ms(u64::MAX, later, NOW), MAX_DEADLINE_MS);
    }

    #[test]
    fn nothing_outlives_its_envelope() {
        assert_eq!(deadline_ms(600_000, expiring_in(300_000), NOW), 360_000);
        assert_eq!(deadline_ms(30_000, expiring_in(-59_500), NOW), 500);
        assert_eq!(deadline_ms(30_000, expiring_in(-60_001), NOW), 0);
        assert_eq!(deadline_ms(30_000, Timestamp::from_millis(i64::MIN), NOW), 0);
        assert_eq!(deadline_ms(30_000, Timestamp::from_millis(i64::MAX), NOW), 30_000);
    }
}
