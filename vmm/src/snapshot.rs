//! Golden states: captured once, restored as often as needed, shared by any number of machines.
//!
//! A [`Golden`] state is everything a guest can change or notice: memory, vCPUs, interrupt
//! controllers and clocks, devices with both halves of every vsock connection, and the disk. A
//! reset undoes what a guest has done since, in place: no process, no file, no new VM. Its cost
//! follows the number of dirty pages.
//!
//! The steps of a reset, their order and the reasons for it are the list in `reset/steps.rs`. A step
//! that fails leaves the machine poisoned: the dirty pages are remembered, and nothing runs until a
//! later reset has succeeded in full.

mod compare;
mod dirty_pages;
mod error;
pub mod file;
mod golden;
mod page_run;
mod page_set;
pub(crate) mod registers;
pub(crate) mod reset;
mod strategy;

pub(crate) use compare::state;
pub use compare::{Difference, Differences};
pub use error::ResetError;
pub use golden::Golden;
pub(crate) use golden::Origin;
pub(crate) use page_run::PageRun;
pub use page_set::PageSet;
pub use registers::Register;
pub(crate) use reset::Resetter;
pub use reset::{ResetParts, ResetReport};
pub use strategy::Strategy;
