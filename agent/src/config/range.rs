//! What numbers may be.

use std::fmt;

use protocol::message::MAX_FRAME_BYTES;
use vmm::MachineConfig;

/// Inclusive range of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Smallest value.
    pub min: i64,
    /// Largest value.
    pub max: i64,
}

/// A range in words, for error messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed(pub Limits);

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.0.min, self.0.max)
    }
}

/// vCPUs of one machine.
pub const VCPUS: Limits =
    Limits { min: *MachineConfig::VCPUS.start() as i64, max: *MachineConfig::VCPUS.end() as i64 };
/// RAM of one machine, in MiB.
pub const MEMORY_MIB: Limits = Limits {
    min: *MachineConfig::MEMORY_MIB.start() as i64,
    max: *MachineConfig::MEMORY_MIB.end() as i64,
};
/// vsock address of a guest; the largest number is the wildcard.
pub const CID: Limits = Limits {
    min: *MachineConfig::GUEST_CID.start() as i64,
    max: *MachineConfig::GUEST_CID.end() as i64,
};
/// vsock port of the guest program.
pub const PORT: Limits = Limits { min: 1, max: 65535 };

/// Machines of a pool.
pub const MACHINES: Limits = Limits { min: 1, max: 256 };
/// Commands that may wait for a machine.
pub const QUEUE: Limits = Limits { min: 0, max: 10_000 };

/// Seconds that commands in flight may take when the agent is told to stop.
pub const STOP_PATIENCE_S: Limits = Limits { min: 0, max: u16::MAX as i64 };
/// Nonces that can be live at once; the protocol asks for room for 100 000.
pub const NONCE_CAPACITY: Limits = Limits { min: 100_000, max: u32::MAX as i64 };
/// Space of kept outputs, in MiB.
pub const EVIDENCE_MIB: Limits = Limits { min: 0, max: u32::MAX as i64 };
/// Greatest age of kept outputs, in days.
pub const EVIDENCE_DAYS: Limits = Limits { min: 0, max: u16::MAX as i64 };
/// Longest frame to the relay, in KiB. The shortest bound holds all of a result but its output.
pub const FRAME_KIB: Limits = Limits { min: 8, max: (MAX_FRAME_BYTES >> 10).cast_signed() as i64 };

impl Limits {
    /// Whether the range holds `value`.
    pub fn contains(self, value: i64) -> bool {
        (self.min..=self.max).contains(&value)
    }
}
