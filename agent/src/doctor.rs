//! Is this host fit to run the agent? Facts are gathered in one place, judged in another and
//! drawn in a third, so that the judgement can be tested without the host.

mod assess;
mod host;
mod parse;
mod render;

pub use assess::assess;
pub use host::gather;
pub use render::{Drawing, render};

use serde::Serialize;
use vmm::HostProbe;

use crate::confine::Possible;

/// What was found out about the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// KVM itself.
    pub kvm: Kvm,
    /// `vmx` or `svm`, when the processor offers it.
    pub virtualisation: Option<&'static str>,
    /// This host is a virtual machine itself.
    pub is_virtual: bool,
    /// Memory that could be used now, in MiB.
    pub available_mib: Option<u64>,
    /// RAM of one machine by the current settings, in MiB.
    pub machine_mib: u64,
    /// Control groups.
    pub cgroup: Cgroup,
    /// What a serving agent could give up.
    pub confinement: Possible,
    /// The guest image by the current settings.
    pub image: Image,
}

/// `/dev/kvm`, as far as one gets with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It works.
    Usable(HostProbe),
    /// There is no device.
    Missing,
    /// This user may not open it.
    Forbidden {
        /// The group that owns the device, when it has a name.
        group: Option<String>,
    },
    /// It is there and does not work.
    Broken(String),
}

/// Control groups of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cgroup {
    /// Which hierarchy there is.
    pub version: CgroupVersion,
    /// Tightest memory limit found, in MiB.
    pub memory_limit_mib: Option<u64>,
}

/// Hierarchies of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// The unified hierarchy.
    V2,
    /// One hierarchy per controller.
    V1,
    /// None mounted.
    None,
}

/// The guest image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// Present, and what its manifest says.
    Verified {
        /// Where it was found, and what it holds.
        summary: String,
    },
    /// Present, but nothing vouches for all of it.
    Unverified {
        /// Where it was found.
        summary: String,
    },
    /// Cannot be used.
    Bad {
        /// What is wrong.
        finding: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// Version of this form.
    pub schema_version: u32,
    /// Whether machines can run here.
    pub fit: bool,
    /// One entry per question.
    pub checks: Vec<Check>,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    /// The answer.
    pub status: CheckStatus,
    /// What was found.
    pub finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How good an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Works, but could be better.
    Warning,
    /// Machines cannot run.
    Failed,
    /// Could not be answered because of an earlier failure.
    Skipped,
}

#[cfg(test)]
mod tests;
