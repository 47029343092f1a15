//! The device against a guest of our own: real rings in real guest memory, and a driver that
//! suppresses notifications as Linux does, so that a lost kick or interrupt shows.

#[cfg(feature = "tokio")]
mod asynchronous;
mod closing;
mod driver;
mod guest;
mod hostile;
mod limits;
mod properties;
mod snapshot;
mod streams;
mod waiting;

use std::time::Duration;

/// Far longer than anything here takes; only a hang meets it.
const LIMIT: Duration = Duration::from_secs(30);
/// A port of the guest's program.
const GUEST_PORT: u32 = 52000;
/// A port of the host's program.
const HOST_PORT: u32 = 1024;
