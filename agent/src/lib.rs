//! The agent: takes signed commands from a relay and runs them as tools in microVMs.
//!
//! - [`config`]: settings from flags, environment and file.
//! - [`store`]: identity, nonces, journal and audit log on disk.
//! - [`keyholder`]: the private key, in a process of its own.
//! - [`relay`]: enrollment, the connection to the relay, and the commands that come over it.
//! - [`commands`]: from envelope to result; knows no connection.
//! - [`baselines`]: what was measured when the agent was installed.
//! - [`evidence`]: what a command wrote, kept so that others can check it.
//! - [`degraded`]: no command after a machine that could not be shown to be golden.
//! - [`reset_report`]: the verification of a reset as the relay is told.
//! - [`service`]: all of it at work.
//! - [`app`]: all of it put together from the settings.
//! - [`mod@bench`]: what a reset costs on this host.
//! - [`doctor`]: whether this host is fit for it.
//! - [`cli`]: the `brainstorm-agent` command.
#![warn(missing_docs)]

pub mod app;
pub mod baselines;
pub mod bench;
pub mod cli;
pub mod commands;
pub mod config;
pub mod confine;
pub mod degraded;
pub mod doctor;
pub mod evidence;
pub mod keyholder;
pub mod relay;
pub mod reset_report;
pub mod service;
pub mod store;
