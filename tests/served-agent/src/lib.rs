//! An enrolled agent as a process of its own, beside a relay in this one: for tests and measurements.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

mod agent;
mod files;

pub use agent::{LIMIT, ServedAgent, damage};
pub use files::{agent_binary, image_dir};
