//! What runs commands.

mod pool;
mod tools;

use guest::manifest::ImageManifest;
use guest::registry::{CallError, Track};
use protocol::message::WireState;
use sandbox::pool::{PoolMetrics, Refused};
use sandbox::{Executed, ToolCall};
use serde_json::{Map, Value};

pub use pool::PoolExecutor;
pub use tools::Tools;

/// Asked when a command has its machine, before the machine sees it: whether it may begin. What it answers
/// otherwise becomes of the command, and the machine is used for another one.
pub type MayBegin = Box<dyn FnOnce() -> Result<(), Refused> + Send>;

/// Runs commands, each on a clean machine.
pub trait Executor: Send + Sync + 'static {
    /// Looks a tool up and checks the parameters against its schema.
    fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<ToolFacts, CallError>;

    /// The manifest of the image that commands run on.
    fn image(&self) -> Option<&ImageManifest> {
        None
    }

    /// The largest number of commands at once, including those that wait for a machine.
    fn capacity(&self) -> usize;

    /// Runs one command to its end, reset and verification of its machine included. Blocks.
    /// `may_begin` is asked when the command has its machine. When it refuses, the result is its answer, with
    /// [`Executed::refused`], and nothing has run.
    fn execute(&self, tenant: &str, call: ToolCall, may_begin: MayBegin) -> Executed;

    /// The state of the machines, in the protocol's words.
    fn state(&self) -> WireState;

    /// Counts of the machines, if a pool holds them.
    fn pool_metrics(&self) -> Option<PoolMetrics> {
        None
    }

    /// Ends what runs now; the commands fail, later ones are served.
    fn abort(&self);

    /// Begins no command any more until [`Executor::resume`]: those that wait fail with the code
    /// ENDPOINT_INTEGRITY_MONITOR_TRIPPED, those that run go on.
    fn halt(&self, _reason: &str) {}

    /// Serves again after a halt, on machines made from now on.
    fn resume(&self) {}

    /// Ends everything. Commands under way fail.
    fn shut_down(&self);
}

/// What the agent needs to know about a tool before the tool runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolFacts {
    /// Whether it changes anything.
    pub track: Track,
    /// Milliseconds it may take.
    pub deadline_ms: u64,
    /// Milliseconds it usually takes.
    pub estimated_duration_ms: u64,
}
