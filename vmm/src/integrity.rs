//! What a machine says about itself is not believed: its disk, its memory and its state are read
//! again and compared with what they must be.
//!
//! - *disk*: every block has a hash, of the base image or of what the device last wrote there. A
//!   block is checked before the guest reads it, dirty blocks before they are thrown away, and
//!   afterwards those that were thrown away, with a sample of all others.
//! - *memory*: pages that were restored are compared with golden memory, with every page of which
//!   the machine has a copy of its own though no log named it, and with a sample of all others.
//!   Golden memory is sampled against its own hashes.
//! - *VMM*: vCPUs, interrupt controllers, timers, clocks, memory slots and devices are read back.
//!
//! Content decides everywhere. Logs and page tables only say where to look first.

mod checker;
mod disk;
mod finding;
mod memory;
mod plan;
mod scrub_cursor;
#[cfg(any(test, feature = "testing"))]
mod tamper;

use std::fmt::Write;

pub(crate) use checker::Checker;
pub(crate) use memory::MemoryFound;

pub use finding::{Finding, FindingSource, Location};
pub use plan::{IntegrityParts, IntegrityPlan, IntegrityReport};
#[cfg(any(test, feature = "testing"))]
pub use tamper::Tamper;

/// Most findings of one kind that one check reports.
const MAX_FINDINGS: usize = 64;

fn sha256_text(hash: &[u8; 32]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in hash {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
