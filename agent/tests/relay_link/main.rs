//! The link against a relay on real sockets that does just what a test says, with the real key
//! holder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod endings;
mod frames;
mod handshake;
mod identity;
mod liveness;
mod support;
