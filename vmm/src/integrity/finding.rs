//! One thing that is not as it should be, in words for a person.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingSource {
    /// Content of the disk.
    Disk,
    /// Content of guest memory, or of golden memory.
    Memory,
    /// State read back from KVM and from the devices.
    Vmm,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A block of the machine's disk: 4096 bytes, the first one is number 0.
    Block(u64),
    /// A page of the machine's memory: 4096 bytes.
    Page {
        /// Guest-physical address of its first byte.
        address: u64,
    },
    /// A page of the golden memory that all machines share.
    GoldenPage {
        /// Guest-physical address of its first byte.
        address: u64,
    },
    /// A part of the machine's state, such as `vCPU 0: MSR 0x174`.
    State(String),
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Finding {
    /// Who noticed.
    pub source: FindingSource,
    /// Where it is.
    pub place: Place,
    /// What should be there.
    pub was: String,
    /// What is there.
    pub is: String,
}

impl fmt::Display for FindingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
            Self::Vmm => "vmm",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(number) => write!(f, "block {number}"),
            Self::Page { address } => write!(f, "page {address:#x}"),
            Self::GoldenPage { address } => write!(f, "golden page {address:#x}"),
            Self::State(part) => f.write_str(part),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, place, was, is } = self;
        write!(f, "{source}: {place} is {is}, was {was}")
    }
}
