//! Fuzz targets: one function for each place that reads what another party wrote.
//!
//! A target takes any bytes and panics when something happened that must not happen. The engine
//! that makes the bytes is behind the feature `engine`; without it every seed runs once, as a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "here a panic is a finding"
)]
#![warn(missing_docs)]

mod ram;
mod rig;
mod script;
mod second_canonical;
pub mod seeds;
mod targets;

pub use targets::{PLANTED, TARGETS, Target};
