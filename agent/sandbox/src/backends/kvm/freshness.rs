//! The time and the randomness a command brings along.

use std::time::{SystemTime, UNIX_EPOCH};

use guest::wire::{ENTROPY_BYTES, Freshness};
use rustix::rand::{GetRandomFlags, getrandom};

use super::not_available;
use crate::error::SandboxError;

/// The time now, and random bytes that no other command gets. To be called right before they are sent.
pub fn draw() -> Result<Freshness, SandboxError> {
    let entropy = random_bytes()?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    let wall_time_ns = since_epoch.and_then(|time| u64::try_from(time.as_nanos()).ok());
    let wall_time_ns = wall_time_ns.ok_or_else(|| {
        not_available("this host's clock is out of range: set it, because guests get their time")
    })?;
    Ok(Freshness::new(wall_time_ns, &entropy))
}

fn random_bytes() -> Result<[u8; ENTROPY_BYTES], SandboxError> {
    let mut bytes = [0; ENTROPY_BYTES];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += getrandom(rest, GetRandomFlags::empty()).map_err(|e| {
            not_available(&format!("this host gives no random bytes, so no tool can start: {e}"))
        })?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_draw_has_new_bytes_and_the_time_of_now() {
        let (first, second) = (draw().unwrap(), draw().unwrap());
        assert_ne!(first.entropy, second.entropy);
        assert!(first.entropy_bytes().is_some());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        assert!(now.abs_diff(second.wall_time_ns.into()) < 60_000_000_000);
    }
}
