//! What an operator measures on the host at hand: how long a reset takes, where the time goes, and
//! what the guest pays for it afterwards.

mod calls;
mod distribution;
mod footprint;
mod host;
mod linux;
mod micro;
mod report;
mod row;

pub use calls::{CallRow, Calls};
pub use distribution::Distribution;
pub use footprint::Footprint;
pub use host::Host;
pub use linux::measure as measure_linux;
pub use micro::measure as measure_micro;
pub use report::Report;
pub use row::{CYCLE, NEXT_RUN, RESET, Row, Samples, StepTimes};

use thiserror::Error;
use vmm::{DirtyTracking, MachineError, Strategy};

use sandbox::SandboxError;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetBench {
    /// RAM of the guest in MiB.
    pub memory_mib: u32,
    /// Number of vCPUs of the guest.
    pub vcpus: u8,
    /// Pages to write to before each reset.
    pub dirty_pages: u32,
    /// How dirty pages are found (micro guest only).
    pub tracking: DirtyTracking,
    /// How dirty pages get their content back.
    pub strategy: Strategy,
    /// How many resets to measure.
    pub iterations: u32,
    /// Whether to take down kernel calls too (micro guest only), which makes the reset slower.
    pub calls: bool,
}

/// Why nothing could be measured.
#[derive(Debug, Error)]
pub enum BenchError {
    /// Numbers that do not fit together.
    #[error("{0}")]
    Settings(String),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The sandbox around the Linux guest.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The guest did not do its work.
    #[error("the guest did not reach its checkpoint within {0:?}")]
    Silent(std::time::Duration),
    /// A reset left something behind. Its time means nothing.
    #[error("after the measurement the machine was not in its golden state: {0}")]
    NotGolden(String),
}
