//! Files that a serving agent may reach: everything else is out of reach, whatever its owner.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus,
};
use serde::Serialize;

use super::{ConfineError, links, step};

/// The newest rules known here; an older kernel enforces those that it has.
const NEWEST: ABI = ABI::V5;
/// The newest version as a number.
pub const NEWEST_VERSION: i32 = 5;
/// Names of hosts, certificates, time zones, randomness, and what the kernel tells of itself and
/// this process.
const SYSTEM: [&str; 8] = [
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/etc",
    "/proc",
    "/run/systemd/resolve",
    "/sys",
    "/usr/share",
];
const KVM: &str = "/dev/kvm";

/// What a serving agent needs.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Directories that are written.
    pub written: Vec<PathBuf>,
    /// Files and directories that are read. Of a file the directory may be read that holds it behind
    /// all links, so that a new file in its place can be read too.
    pub read: Vec<PathBuf>,
}

/// How far files are out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Landlock {
    /// Every rule known here is in force.
    Full,
    /// The kernel is older and enforces what it knows.
    Partial,
    /// The kernel has no Landlock, or it is switched off.
    Absent,
}

/// Leaves these files to the calling thread and those it starts.
pub fn restrict(files: &Files) -> Result<Landlock, ConfineError> {
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::from_read(NEWEST) & !AccessFs::Execute;
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let ruleset = step("choose rules", ruleset.handle_access(all))?;
    let mut created = step("create rules", ruleset.create())?;
    let behind_links = files.read.iter().filter_map(|path| links::readable(path));
    let system = SYSTEM.iter().map(PathBuf::from).chain(links::of_system());
    for path in system.chain(behind_links) {
        created = allow(created, &path, read)?;
    }
    for path in &files.written {
        created = allow(created, path, all & !AccessFs::Execute)?;
    }
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    created = allow(created, Path::new(KVM), device)?;
    let status = step("put rules in force", created.restrict_self())?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Absent,
    })
}

/// A path that does not exist needs no rule: it stays out of reach.
fn allow(
    created: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, ConfineError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(created) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    step("add a rule", created.add_rule(PathBeneath::new(opened, access)))
}
