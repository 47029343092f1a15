//! Points in time as the messages to the host write them. Setting the clock: see [`super::freshness`].

use nix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Now, RFC 3339, in UTC.
pub fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

/// Microseconds since the guest kernel started.
pub fn since_boot_us() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|time| {
            let seconds = u64::try_from(time.tv_sec()).ok()?;
            Some(seconds * 1_000_000 + u64::try_from(time.tv_nsec()).ok()? / 1000)
        })
        .unwrap_or_default()
}
