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

/// Where it is. In JSON an object whose `kind` is the variant in snake case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Location {
    /// 4096 bytes of the machine's disk.
    Block {
        /// Counted from zero.
        number: u64,
    },
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
    /// A part of the machine's state: a register, a field of a device, a memory slot.
    State {
        /// Which one, such as `vCPU 0: MSR 0x174`.
        name: String,
    },
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Finding {
    /// Who noticed.
    pub source: FindingSource,
    /// Where it is.
    pub place: Location,
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

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { number } => write!(f, "block {number}"),
            Self::Page { address } => write!(f, "page {address:#x}"),
            Self::GoldenPage { address } => write!(f, "golden page {address:#x}"),
            Self::State { name } => f.write_str(name),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, place, was, is } = self;
        write!(f, "{source}: {place} is {is}, was {was}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_source_and_place() {
        let place = Location::State { name: "vCPU 0: MSR 0x174".into() };
        let (was, is) = ("0x1".into(), "0x2".into());
        let finding = Finding { source: FindingSource::Vmm, place, was, is };
        let json = serde_json::json!({
            "source": "vmm",
            "place": {"kind": "state", "name": "vCPU 0: MSR 0x174"},
            "was": "0x1",
            "is": "0x2",
        });
        assert_eq!(serde_json::to_value(&finding).unwrap(), json);
        assert_eq!(serde_json::from_value::<Finding>(json).unwrap(), finding);
        let places = [
            (Location::Block { number: 3 }, serde_json::json!({"kind": "block", "number": 3})),
            (
                Location::Page { address: 4096 },
                serde_json::json!({"kind": "page", "address": 4096}),
            ),
            (
                Location::GoldenPage { address: 0 },
                serde_json::json!({"kind": "golden_page", "address": 0}),
            ),
        ];
        for (place, json) in places {
            assert_eq!(serde_json::to_value(place).unwrap(), json);
        }
    }
}
