//! The operator's side: how operators prove who they are, what they confirm, and a client that
//! does both.

pub mod auth;
pub mod client;
pub mod preview;
pub(crate) mod server;
