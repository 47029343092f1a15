//! The relay's protocol, version 1: message forms, canonical JSON, signatures, checks. Pure: no sockets, no clock of its own.
//!
//! - [`canonical`]: the one byte form of a JSON value, which everything signed and hashed is made of.
//! - [`signing`]: `ed25519-jcs-sha256-v1` with its domains.
//! - [`timestamp`]: points in time as the protocol writes them.
//! - [`code`]: error codes.
//! - [`message`]: every frame both ways.
//! - [`envelope`]: the closed schema of a command.
//! - [`keyring`]: the keys whose commands are taken.
//! - [`verify`](mod@verify): the checks of a command, in their order.

pub mod canonical;
pub mod code;
mod domain;
pub mod envelope;
pub mod keyring;
pub mod message;
pub mod shape;
pub mod signing;
pub mod timestamp;
pub mod verify;

pub use canonical::{CanonicalError, Json, canonical_bytes};
pub use code::ErrorCode;
pub use envelope::{CommandEnvelope, Operator, OperatorKind};
pub use keyring::{KeyProblem, KeyRing, KeyRingError, SigningKeyEntry};
pub use timestamp::Timestamp;
pub use verify::{Audience, Check, Refusal, verify};

/// The version of the protocol, field `agent_protocol_version`.
pub const PROTOCOL_VERSION: &str = "v1";

#[cfg(test)]
mod tests;
