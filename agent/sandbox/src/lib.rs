//! A place to run tools in: booted once, used many times, and honest about its state.
#![warn(missing_docs, clippy::missing_errors_doc)]

pub mod backends;
mod call;
mod channel;
mod chunks;
mod error;
mod executed;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guest_text;
mod image;
mod incident;
pub mod pool;
mod query;
mod sandbox;
mod spec;
mod state;
pub mod verify;

#[cfg(feature = "testing")]
pub use backends::kvm::{FaultInjector, FaultPoint};
pub use backends::kvm::{KvmConfig, KvmImage, KvmSandbox, KvmSource};
pub use backends::{BACKEND_NAMES, Backend};
pub use call::{PartialOutput, Process, QueryAnswer, ToolCall, ToolOutcome};
pub use channel::{ChannelCounters, ChannelError, EvidenceFault};
pub use chunks::Chunks;
pub use error::{SandboxError, StoppedBy};
pub use executed::{Executed, Failure};
pub use image::{Artifact, ImageError, ImageSource};
pub use incident::{Cause, ForensicDump, Incident, IncidentHandler, MismatchedBlock};
pub use spec::{Resets, SandboxSpec};
pub use state::{BootPath, BootReport, Phases, ResetOutcome, SandboxState};

pub use verify::{Baseline, Verdict, Verification, VerificationParts, VerifiedReset};

pub use sandbox::Sandbox;

pub use guest::wire::QueryKind;
