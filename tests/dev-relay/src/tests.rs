//! A relay on real sockets, with an endpoint that is not the agent at the other end.

mod agent;
mod commands;
mod enrollment;
mod fake;
mod faults;
mod hello;
mod operator;

use std::time::Duration;

/// Longer than anything takes: what waits this long has failed.
const LONG: Duration = Duration::from_secs(20);
