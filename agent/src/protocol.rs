//! The relay's protocol, version 1: message forms, canonical JSON, signatures, checks. Pure: no sockets, no clock of its own.
//!
//! - [`canonical`]: the one byte form of a JSON value, which everything signed and hashed is made of.
//! - [`signing`]: `ed25519-jcs-sha256-v1` with its domains.
//! - [`timestamp`]: points in time as the protocol writes them.
//! - [`code`]: error codes.
//! - [`message`]: every frame both ways.

pub mod canonical;
pub mod code;
pub mod message;
pub mod shape;
pub mod signing;
pub mod timestamp;

pub use canonical::{CanonicalError, Json, canonical_bytes};
pub use code::ErrorCode;
pub use timestamp::Timestamp;

/// The version of the protocol, field `agent_protocol_version`.
pub const PROTOCOL_VERSION: &str = "v1";

#[cfg(test)]
mod tests;
