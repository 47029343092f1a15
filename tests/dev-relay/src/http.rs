//! Enrollment over HTTP: the relay's side, and a small client for the administration call.

pub mod client;
pub(crate) mod server;
