//! A relay to try the agent against: protocol-complete for one operator, in memory, loopback only.
//!
//! It stands in for a real relay in three places: as a process behind the demo, in a test's own
//! process with faults injected at will, and on a person's machine next to `curl`. Two things set
//! it apart from a relay in the field. It arms the acknowledgement timer *before* it writes an
//! envelope, so that an acknowledgement can never beat its own timer. And it holds every frame an
//! endpoint sends against the closed schemas and the ordering rules of the protocol: what a relay
//! in the field lets pass, or dies of, is recorded here in [`DevRelay::violations`].
//!
//! - [`DevRelay`]: start, stop, enroll, dispatch, look at what arrived.
//! - [`EnvelopeBuilder`]: command envelopes, good ones and every kind of bad one.
//! - [`operator`]: the operator's side, and a client for it.
#![warn(missing_docs)]

mod command;
mod config;
mod connection;
mod dispatch;
mod endpoint;
mod enrollment;
mod envelope;
mod frame;
mod hostile;
pub mod http;
mod ledger;
pub mod operator;
mod random;
mod relay;
mod schema;
mod shared;
mod socket;
mod violation;

pub use command::{CommandEvent, CommandHandle, Happening, NoEvent, Outcome, Timings};
pub use config::{Config, Faults, HelloAnswer};
pub use dispatch::{DispatchError, DispatchOptions};
pub use enrollment::BootstrapToken;
pub use envelope::{Draft, Envelope, EnvelopeBuilder, EnvelopeError};
pub use frame::{FrameBody, ReceivedFrame};
pub use hostile::Hostile;
pub use relay::{DevRelay, Farewell, Raw, StartError};
pub use shared::{Refused, SessionInfo};
pub use violation::{Late, Violation, ViolationKind};

#[cfg(test)]
mod tests;
