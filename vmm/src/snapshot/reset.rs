//! A reset: a list of steps, run and timed by one loop.

pub mod context;
mod pages;
mod report;
mod resetter;
pub mod steps;

pub use context::Parts;
pub use report::{ResetParts, ResetReport};
pub use resetter::{ResetRequest, Resetter};
