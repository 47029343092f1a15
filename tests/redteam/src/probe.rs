//! What a probe is: a description, a set-up, an attack, and a tear-down.

use crate::info::{AttackerClass, Expectation, ProbeInfo};
use crate::testbed::Testbed;
use crate::verdict::{ProbeError, Verdict};

/// An attack on a sandbox with a verdict, or a measurement of one.
///
/// A run calls `set_up`, `run` and `tear_down` once, in this order, on one thread. Afterwards every
/// sandbox of the testbed is reset, so a probe tears down only what it made elsewhere.
pub trait Probe: Send + Sync {
    /// What the probe says about itself.
    fn info(&self) -> ProbeInfo;

    /// Makes what the attack needs.
    ///
    /// # Errors
    ///
    /// The probe is errored and its attack does not run.
    fn set_up(&self, testbed: &Testbed) -> Result<(), ProbeError> {
        let _ = testbed;
        Ok(())
    }

    /// Attacks, and judges what came of it.
    ///
    /// # Errors
    ///
    /// The attack could not be tried, or its control failed: the probe is errored, and proves
    /// nothing.
    fn run(&self, testbed: &Testbed) -> Result<Verdict, ProbeError>;

    /// Removes what `set_up` and `run` made. Called after `set_up` and `run` in any case: after an
    /// error and after a panic too.
    ///
    /// # Errors
    ///
    /// A probe that would have passed is errored.
    fn tear_down(&self, testbed: &Testbed) -> Result<(), ProbeError> {
        let _ = testbed;
        Ok(())
    }
}

/// A probe that is one function, and neither sets up nor tears down anything outside of it.
#[derive(Debug, Clone, Copy)]
pub struct FnProbe {
    /// Name on the command line and in the report.
    pub name: &'static str,
    /// Who would attack like this.
    pub class: AttackerClass,
    /// What should become of the attempts.
    pub expectation: Expectation,
    /// What the probe does, in one sentence.
    pub description: &'static str,
    /// The probe does everything as often as the iterations say, and its budget grows with them.
    pub repeats: bool,
    /// Attacks, and judges what came of it.
    pub run: fn(&Testbed) -> Result<Verdict, ProbeError>,
}

impl Probe for FnProbe {
    fn info(&self) -> ProbeInfo {
        let Self { name, class, expectation, description, repeats, .. } = *self;
        ProbeInfo { name, class, expectation, description, repeats }
    }

    fn run(&self, testbed: &Testbed) -> Result<Verdict, ProbeError> {
        (self.run)(testbed)
    }
}
