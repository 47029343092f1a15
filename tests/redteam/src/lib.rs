//! Attacks on the boundary of a sandbox and of an agent: each probe runs a real attack in a real
//! guest and judges what came of it. The attacks are on the disk of a test image, never on that of
//! the shipped one.
//!
//! A probe proves something only if its attack could have worked, so each has controls: the same
//! program succeeds where it should. A probe whose control fails is errored, never passed.
//!
//! - [`Probe`] is one attack, [`Registry`] the probes to choose from: the built-in ones, and those
//!   that another crate adds.
//! - [`Testbed`] gives a probe sandboxes of a [`Backend`](sandbox::Backend), and takes its measurements.
//! - [`run`] does what a [`Plan`] says and gives a [`Report`].
#![warn(missing_docs)]

mod attack_log;
mod defences;
mod host;
mod info;
mod latency;
mod leak;
mod page;
mod plan;
mod probe;
mod probes;
mod progress;
mod registry;
mod report;
mod runner;
mod scratch;
mod search;
mod selection;
mod testbed;
mod variant;
mod verdict;

pub use attack_log::{AttackLog, Attempt};
pub use defences::{GUEST_DEFENCES, HOST_DEFENCES};
pub use info::{AttackerClass, Expectation, ProbeInfo};
pub use latency::Latency;
pub use page::page;
pub use plan::Plan;
pub use probe::{FnProbe, Probe};
pub use progress::Progress;
pub use registry::{Registry, RegistryError};
pub use report::{ProbeReport, Report, SCHEMA_VERSION, Summary};
pub use runner::{Event, run};
pub use selection::Selection;
pub use testbed::{Guest, Testbed};
pub use verdict::{ProbeError, Verdict};
