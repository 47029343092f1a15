//! What numbers may be.

use std::fmt;

/// Guest addresses below this one are reserved (virtio 1.2, section 5.10.4).
pub const MIN_CID: u32 = 3;

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
pub const VCPUS: Limits = Limits { min: 1, max: 8 };
/// RAM of one machine, in MiB.
pub const MEMORY_MIB: Limits = Limits { min: 64, max: 8192 };
/// vsock address of a guest; the largest number is the wildcard.
pub const CID: Limits = Limits { min: MIN_CID as i64, max: u32::MAX as i64 - 1 };
/// vsock port of the guest program.
pub const PORT: Limits = Limits { min: 1, max: 65535 };

/// Machines of a pool.
pub const MACHINES: Limits = Limits { min: 1, max: 256 };
/// Commands that may wait for a machine.
pub const QUEUE: Limits = Limits { min: 0, max: 10_000 };

impl Limits {
    /// Whether the range holds `value`.
    pub fn contains(self, value: i64) -> bool {
        (self.min..=self.max).contains(&value)
    }
}
