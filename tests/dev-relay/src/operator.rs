//! The operator's side: how operators prove who they are, and what they confirm.

pub mod auth;
pub mod preview;
pub(crate) mod server;
