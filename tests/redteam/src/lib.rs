//! Attacks on our own boundary: each probe runs a real attack in a real guest and judges what came
//! of it. The attacks are on the disk of a test image, never on that of the shipped one.
//!
//! A probe proves something only if its attack could have worked, so each has controls: the same
//! program succeeds where it should. A probe whose control fails is errored, never passed.

mod arena;
mod attack_log;
mod host;
mod latency;
mod leak;
mod page;
mod probe;
mod probes;
mod report;
mod runner;
mod scratch;
mod search;
mod selection;
mod turns;
mod variant;

pub use arena::{Arena, Guest};
pub use latency::Latency;
pub use page::page;
pub use probe::{AttackerClass, Expectation, Probe, ProbeError, Verdict};
pub use probes::all;
pub use report::{ProbeReport, Report, SCHEMA_VERSION, Summary};
pub use runner::{Event, GUEST_DEFENCES, HOST_DEFENCES, Plan, run};
pub use selection::{Selection, UnknownProbe};
