//! A machine that could not be shown to be golden, and the handler that is called before it is ended.

use std::time::SystemTime;

use super::Verification;

/// What happened to a machine, and what is left of it.
#[derive(Debug, Clone)]
pub struct Incident {
    /// When it was noticed.
    pub at: SystemTime,
    /// The last command the machine ran; `None` when it ran none.
    pub command_id: Option<String>,
    /// What is wrong with it.
    pub cause: Cause,
    /// What was saved of it.
    pub dump: ForensicDump,
}

/// What is wrong with a machine.
#[derive(Debug, Clone)]
pub enum Cause {
    /// It did not pass this verification.
    Verification(Box<Verification>),
    /// It could not be reset, for this reason.
    ResetFailed(String),
    /// At its start it was not what every machine is to be compared with, or not what was
    /// installed, in this way.
    NotAsInstalled(String),
}

impl Cause {
    /// In words.
    pub fn reason(&self) -> String {
        match self {
            Self::Verification(verification) => verification.failure().unwrap_or_default(),
            Self::ResetFailed(reason) | Self::NotAsInstalled(reason) => reason.clone(),
        }
    }
}

/// What was saved of a machine before it was ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForensicDump {
    /// Blocks of its disk that are not as they were.
    pub blocks: Vec<MismatchedBlock>,
    /// Pages of its RAM that are not as they were.
    pub pages: Vec<MismatchedBlock>,
    /// What the guest wrote to its console, the end of it.
    pub console: String,
    /// Processors with all their registers, and devices, in words.
    pub state: String,
}

/// 4096 bytes as they were found, and as they were in the golden state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MismatchedBlock {
    /// Number of the block, or guest-physical address of the page.
    pub location: u64,
    /// What was found.
    pub found: Vec<u8>,
    /// What was there; `None` when it could not be read.
    pub golden: Option<Vec<u8>>,
}

/// Told of every incident of a sandbox, before its machine is ended and before the caller
/// that asked for the reset gets its answer.
pub trait IncidentHandler: Send + Sync {
    /// Blocks the reset until it returns: when it has written something to disk, that is there
    /// before anything else happens.
    fn on_incident(&self, incident: Incident);
}
