//! The agent: runs tools in microVMs.
//!
//! - [`sandbox`]: a machine to run tools in, behind one trait.
//! - [`config`]: settings from flags, environment and file.
//! - [`bench`]: what a reset costs on this host.
//! - [`doctor`]: whether this host is fit for it.
//! - [`cli`]: the `brainstorm-agent` command.
#![warn(missing_docs)]

pub mod bench;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod sandbox;
