//! What a run is to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sandbox::{Backend, KvmConfig, SandboxSpec};

use crate::defences::HOST_DEFENCES;
use crate::info::ProbeInfo;
use crate::selection::Selection;

/// What a probe has beyond its budget for each iteration: a cold boot on a slow host.
const PER_ITERATION: Duration = Duration::from_secs(2);
/// What an attack may take at most, whatever its probe's budget is.
const MAX_DEADLINE: Duration = Duration::from_secs(30);

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What a sandbox of the attack image is to be.
    pub sandbox: SandboxSpec,
    /// What makes the sandboxes.
    pub backend: Arc<dyn Backend>,
    /// The program `brainstorm-agent`, which one probe starts and kills.
    pub agent: PathBuf,
    /// Which probes run.
    pub selection: Selection,
    /// How often repeating probes do what they measure.
    pub iterations: u32,
    /// How many machines run side by side in probes of several machines.
    pub machines: u32,
    /// What a probe may take; a repeating one has two more seconds for each iteration.
    pub budget: Duration,
    /// Whether medians are held to their limits. On an emulated host they mean nothing.
    pub gates: bool,
    /// Defences to leave out, to see probes fail: [`GUEST_DEFENCES`](crate::GUEST_DEFENCES) and
    /// [`HOST_DEFENCES`].
    pub without: Vec<String>,
}

impl Plan {
    /// Plans all probes once in KVM machines, two side by side, each probe within 30 seconds, with
    /// every defence in place.
    pub fn new(sandbox: SandboxSpec) -> Self {
        Self {
            sandbox,
            backend: Arc::new(KvmConfig::default()),
            agent: PathBuf::from("brainstorm-agent"),
            selection: Selection::All,
            iterations: 1,
            machines: 2,
            budget: Duration::from_secs(30),
            gates: true,
            without: Vec::new(),
        }
    }

    /// Whether a defence is left out.
    pub fn leaves_out(&self, defence: &str) -> bool {
        self.without.iter().any(|other| other == defence)
    }

    /// The guest program's defences that are left out, as its command line wants them.
    pub(crate) fn guest_without(&self) -> String {
        let names = self.without.iter().map(String::as_str);
        let of_guest: Vec<&str> = names.filter(|name| !HOST_DEFENCES.contains(name)).collect();
        of_guest.join(",")
    }

    /// What one attack of a probe may take.
    pub fn deadline(&self) -> Duration {
        self.budget.min(MAX_DEADLINE)
    }

    /// What a probe may take from its set-up to its tear-down.
    pub fn budget_of(&self, probe: &ProbeInfo) -> Duration {
        let more = if probe.repeats { PER_ITERATION * self.iterations } else { Duration::ZERO };
        self.budget + more
    }

    /// Plans all probes once, on an image that does not exist.
    #[cfg(test)]
    pub(crate) fn for_tests(without: &[&str]) -> Self {
        let image = sandbox::ImageSource::directory("/nonexistent");
        let without = without.iter().map(|name| (*name).to_owned()).collect();
        Self { without, ..Self::new(SandboxSpec::new(image)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{AttackerClass, Expectation};

    #[test]
    fn only_repeating_probes_have_more_time_for_iterations() {
        let plan = Plan { iterations: 100, ..Plan::for_tests(&[]) };
        let mut info = ProbeInfo {
            name: "p",
            class: AttackerClass::A3,
            expectation: Expectation::ShouldFail,
            description: "d",
            repeats: false,
        };
        assert_eq!(plan.budget_of(&info), Duration::from_secs(30));
        info.repeats = true;
        assert_eq!(plan.budget_of(&info), Duration::from_secs(230));
    }

    #[test]
    fn the_guest_is_told_of_its_own_defences_only() {
        let plan = Plan::for_tests(&["reset", "filter", "nonces", "mounts"]);
        assert_eq!(plan.guest_without(), "filter,mounts");
        assert!(plan.leaves_out("reset") && !plan.leaves_out("kill"));
    }
}
