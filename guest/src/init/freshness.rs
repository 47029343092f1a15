//! New time and new randomness before a tool starts.

use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;

use guest::wire::{ENTROPY_BYTES, Freshness, FreshnessAck, entropy_sha256};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

const RANDOM_DEVICE: &str = "/dev/urandom";
const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// `RNDADDENTROPY`: mixes bytes into the kernel's pool and counts them as random.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
/// `RNDRESEEDCRNG`: draws a new key from the pool, which replaces the one on every processor.
const RESEED: libc::Ioctl = 0x5207;

/// `struct rand_pool_info` with room for what a dispatch brings. The counts are small, so the
/// kernel's `int` reads the same.
#[repr(C)]
struct PoolInput {
    entropy_bits: u32,
    byte_count: u32,
    bytes: [u8; ENTROPY_BYTES],
}

/// Sets the clock and reseeds the kernel's random pool. What it returns tells the host so.
pub fn apply(command_id: &str, freshness: &Freshness) -> Result<FreshnessAck, String> {
    let entropy = freshness.entropy_bytes().ok_or("the dispatch has no usable entropy")?;
    set_clock(freshness.wall_time_ns)?;
    reseed(&entropy)?;
    Ok(FreshnessAck {
        command_id: command_id.to_owned(),
        guest_time_ns: read_clock()?,
        entropy_sha256: entropy_sha256(&entropy),
    })
}

fn set_clock(wall_time_ns: u64) -> Result<(), String> {
    clock_settime(ClockId::CLOCK_REALTIME, timespec(wall_time_ns)?)
        .map_err(|e| format!("cannot set the clock: {e}"))
}

fn read_clock() -> Result<u64, String> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)
        .map_err(|e| format!("cannot read the clock: {e}"))?;
    nanoseconds(&now).ok_or_else(|| format!("the clock reads {now}"))
}

fn timespec(wall_time_ns: u64) -> Result<TimeSpec, String> {
    let out_of_range = |_| format!("{wall_time_ns} ns is no time this clock can be set to");
    let seconds = libc::time_t::try_from(wall_time_ns / NANOSECONDS_PER_SECOND);
    let rest = libc::c_long::try_from(wall_time_ns % NANOSECONDS_PER_SECOND);
    Ok(TimeSpec::new(seconds.map_err(out_of_range)?, rest.map_err(out_of_range)?))
}

fn nanoseconds(time: &TimeSpec) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec()).ok()?.checked_mul(NANOSECONDS_PER_SECOND)?;
    seconds.checked_add(u64::try_from(time.tv_nsec()).ok()?)
}

/// The descriptor is closed again at once, so that the census of descriptors does not change.
fn reseed(entropy: &[u8; ENTROPY_BYTES]) -> Result<(), String> {
    let device = File::open(RANDOM_DEVICE).map_err(|e| format!("{RANDOM_DEVICE}: {e}"))?;
    let input = PoolInput {
        entropy_bits: ENTROPY_BYTES as u32 * 8,
        byte_count: ENTROPY_BYTES as u32,
        bytes: *entropy,
    };
    // SAFETY: the descriptor is open, and the kernel reads a header and as many bytes as it says,
    // all of which `input` holds until the call returns.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, &raw const input) };
    check(added, "cannot add to the random pool")?;
    // SAFETY: the descriptor is open, and this request has no argument.
    let reseeded = unsafe { libc::ioctl(device.as_raw_fd(), RESEED) };
    check(reseeded, "cannot reseed the random pool")
}

fn check(returned: libc::c_int, what: &str) -> Result<(), String> {
    if returned == 0 { Ok(()) } else { Err(format!("{what}: {}", Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    // `apply` changes the machine it runs on, so it is tested in real guests only.

    use super::*;

    #[test]
    fn a_time_survives_the_way_to_the_kernel_and_back() {
        for time in [0, 1, 999_999_999, 1_700_000_000_123_456_789, u64::MAX] {
            assert_eq!(nanoseconds(&timespec(time).unwrap()), Some(time));
        }
    }

    #[test]
    fn a_time_before_the_epoch_is_no_time() {
        assert_eq!(nanoseconds(&TimeSpec::new(-1, 0)), None);
    }

    #[test]
    fn the_kernel_finds_the_bytes_where_it_looks() {
        assert_eq!(std::mem::offset_of!(PoolInput, bytes), 8);
        assert_eq!(std::mem::size_of::<PoolInput>(), 8 + ENTROPY_BYTES);
    }

    #[test]
    fn bytes_that_are_no_entropy_change_nothing() {
        let freshness = Freshness { wall_time_ns: 1, entropy: "AAAA".into() };
        assert!(apply("c", &freshness).unwrap_err().contains("no usable entropy"));
    }
}
