//! What is not as it should be: one thing a source saw, where, and what was there before.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::guest_text::printable;

/// Most findings that are kept one by one; of the others only how many there were.
pub const MAX_FINDINGS: usize = 64;

/// Who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// What the guest reads from its disk.
    Disk,
    /// What the guest says of itself.
    Guest,
    /// Processors, devices and run state, as the virtual machine monitor has them.
    #[serde(rename = "vmm")]
    Monitor,
    /// The guest's RAM.
    Memory,
}

impl Source {
    /// Every source, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Disk, Self::Guest, Self::Monitor, Self::Memory];

    /// Name of the source in files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Guest => "guest",
            Self::Monitor => "vmm",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where it is. In JSON an object whose `kind` is the variant in snake case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Location {
    /// The disk as a whole.
    WholeDisk,
    /// 4096 bytes of the disk.
    Block {
        /// Counted from zero.
        number: u64,
    },
    /// 4096 bytes of RAM.
    Page {
        /// Guest-physical address of its first byte.
        address: u64,
    },
    /// 4096 bytes of the golden memory that all machines share.
    GoldenPage {
        /// Guest-physical address of its first byte.
        address: u64,
    },
    /// A register, a field of a device, a memory slot.
    State {
        /// Which one, such as `vCPU 0 MSR 0x10`.
        name: String,
    },
    /// What the machine is doing.
    RunState,
    /// Open descriptors of all the guest's processes, sockets left out.
    Descriptors,
    /// A process of the guest.
    Process {
        /// Name of the process, as the guest's kernel has it.
        name: String,
        /// Process id in the guest.
        pid: u32,
    },
    /// Memory in use in the guest.
    MemoryUse,
    /// Whether and when the guest answers.
    Answer,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WholeDisk => f.write_str("the whole disk"),
            Self::Block { number } => write!(f, "block {number}"),
            Self::Page { address } => write!(f, "page {address:#x}"),
            Self::GoldenPage { address } => write!(f, "golden page {address:#x}"),
            Self::State { name } => f.write_str(name),
            Self::RunState => f.write_str("run state"),
            Self::Descriptors => f.write_str("open descriptors"),
            Self::Process { name, pid } => write!(f, "process {pid} ({name})"),
            Self::MemoryUse => f.write_str("memory in use"),
            Self::Answer => f.write_str("answer"),
        }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Who saw it.
    pub source: Source,
    /// Where it is.
    #[serde(rename = "place")]
    pub location: Location,
    /// What is there in the golden state.
    pub was: String,
    /// What is there now.
    pub is: String,
    /// All of it in a line for a person.
    pub line: String,
}

impl Finding {
    /// Values are cut to 300 characters, control characters are shown as what they are.
    pub fn new(
        source: Source,
        location: Location,
        was: impl fmt::Display,
        is: impl fmt::Display,
    ) -> Self {
        let location = match location {
            Location::State { name } => Location::State { name: printable(&name) },
            Location::Process { name, pid } => Location::Process { name: printable(&name), pid },
            other => other,
        };
        let (was, is) = (printable(&was.to_string()), printable(&is.to_string()));
        let line = format!("{source}: {location} is {is}, was {was}");
        Self { source, location, was, is, line }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// Keeps the first [`MAX_FINDINGS`], and returns how many there were beyond.
pub fn bound(findings: &mut Vec<Finding>) -> usize {
    let more = findings.len().saturating_sub(MAX_FINDINGS);
    findings.truncate(MAX_FINDINGS);
    more
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finding_is_the_same_in_json_and_back() {
        let finding = Finding::new(Source::Disk, Location::Block { number: 17 }, "aa", "bb");
        let json = serde_json::to_value(&finding).unwrap();
        let expected = json!({
            "source": "disk", "place": {"kind": "block", "number": 17}, "was": "aa", "is": "bb",
            "line": "disk: block 17 is bb, was aa",
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Finding>(json).unwrap(), finding);
        let page = Finding::new(Source::Memory, Location::Page { address: 0x2000 }, 1, 2);
        assert_eq!(page.to_string(), "memory: page 0x2000 is 2, was 1");
    }

    #[test]
    fn what_the_guest_named_reaches_no_terminal_as_it_is() {
        let name = format!("\u{1b}[2J\n{}", "x".repeat(1000));
        let location = Location::Process { name, pid: 7 };
        let finding = Finding::new(Source::Guest, location, "not there", "running");
        assert!(!finding.line.contains(char::is_control), "{}", finding.line);
        assert!(finding.line.len() < 400, "{}", finding.line.len());
    }

    #[test]
    fn only_so_many_are_kept() {
        let one = Finding::new(Source::Monitor, Location::RunState, "running", "paused");
        let mut findings = vec![one.clone(); MAX_FINDINGS];
        assert_eq!(bound(&mut findings), 0);
        findings.extend([one.clone(), one]);
        assert_eq!((bound(&mut findings), findings.len()), (2, MAX_FINDINGS));
    }
}
