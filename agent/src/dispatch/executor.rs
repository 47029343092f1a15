//! What runs commands.

use std::time::{Duration, Instant};

use guest::manifest::ImageManifest;
use guest::registry::{CallError, Registry, RegistryError, Track};
use serde_json::{Map, Value};

use protocol::message::WireState;
use sandbox::pool::{CallOptions, Pool, PoolMetrics};
use sandbox::{Executed, Failure, Sandbox, SandboxError, ToolCall};

/// Runs commands, each on a clean machine.
pub trait Executor: Send + Sync + 'static {
    /// Looks a tool up and checks the parameters against its schema.
    fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<ToolFacts, CallError>;

    /// What the image commands run on says of itself.
    fn image(&self) -> Option<&ImageManifest> {
        None
    }

    /// Most commands at once, those that wait for a machine included.
    fn capacity(&self) -> usize;

    /// Runs one command to its end, reset and verification of its machine included. Blocks.
    /// `started` is called when the command has its machine.
    fn execute(&self, tenant: &str, call: ToolCall, started: Box<dyn FnOnce() + Send>) -> Executed;

    /// What the relay is told about the machines.
    fn state(&self) -> WireState;

    /// The machines, if they are a pool's.
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

/// What the agent needs to know about a tool before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolFacts {
    /// Whether it changes anything.
    pub track: Track,
    /// Milliseconds it may take.
    pub deadline_ms: u64,
    /// Milliseconds it usually takes.
    pub estimated_duration_ms: u64,
}

/// The tools of an image.
pub struct Tools {
    registry: Registry,
    manifest: ImageManifest,
}

impl Tools {
    /// The tools of an image, with those in `enable` enabled on top.
    pub fn new(manifest: &ImageManifest, enable: &[String]) -> Result<Self, RegistryError> {
        let mut registry = Registry::new(manifest.tools.clone())?;
        registry.enable(enable.iter().map(String::as_str))?;
        Ok(Self { registry, manifest: manifest.clone() })
    }

    /// Looks a tool up and checks parameters.
    pub fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<ToolFacts, CallError> {
        let spec = self.registry.check(tool, params)?;
        Ok(ToolFacts {
            track: spec.track,
            deadline_ms: spec.limits.deadline_ms,
            estimated_duration_ms: spec.estimated_duration_ms,
        })
    }
}

/// Commands on the machines of a pool.
pub struct PoolExecutor<S: Sandbox + 'static> {
    pool: Pool<S>,
    tools: Tools,
}

impl<S: Sandbox + 'static> PoolExecutor<S> {
    /// Commands for those tools.
    pub fn new(pool: Pool<S>, tools: Tools) -> Self {
        Self { pool, tools }
    }

    /// The machines.
    pub fn pool(&self) -> &Pool<S> {
        &self.pool
    }
}

impl<S: Sandbox + 'static> Executor for PoolExecutor<S> {
    fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<ToolFacts, CallError> {
        self.tools.check(tool, params)
    }

    fn image(&self) -> Option<&ImageManifest> {
        Some(&self.tools.manifest)
    }

    fn capacity(&self) -> usize {
        self.pool.most_calls()
    }

    fn execute(&self, tenant: &str, call: ToolCall, started: Box<dyn FnOnce() + Send>) -> Executed {
        let options = CallOptions { wait_for_reset: true, verify: true };
        let mut begun = Instant::now();
        let ran = self.pool.execute_with(tenant, call, options, |_| {
            begun = Instant::now();
            started();
        });
        let took = begun.elapsed();
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) => {
                return Executed {
                    result: Err(error.into()),
                    reset: None,
                    execute: Duration::ZERO,
                    reset_took: Duration::ZERO,
                };
            }
        };
        let execute = ran.result.as_ref().map_or(took, |outcome| outcome.round_trip.min(took));
        let reset = match (ran.reset, ran.verification) {
            // The kill switch was pulled, or the agent stops: that says nothing about the machine.
            (_, Some(Err(SandboxError::TakenAway { .. }))) => None,
            (Some(Err(error)), _) => Some(Err(error)),
            (_, verification) => verification,
        };
        Executed {
            result: ran.result.map_err(Failure::from),
            reset,
            execute,
            reset_took: took.saturating_sub(execute),
        }
    }

    fn state(&self) -> WireState {
        if self.pool.halted().is_some() {
            return WireState::Failed;
        }
        let metrics = self.pool.metrics();
        let machines = metrics.machines;
        if machines.clean + machines.busy + machines.resetting > 0 {
            WireState::Ready
        } else if self.pool.has_given_up() {
            WireState::Failed
        } else {
            WireState::Resetting
        }
    }

    fn pool_metrics(&self) -> Option<PoolMetrics> {
        Some(self.pool.metrics())
    }

    fn abort(&self) {
        self.pool.abort_calls();
    }

    fn halt(&self, reason: &str) {
        self.pool.halt(reason);
    }

    fn resume(&self) {
        self.pool.resume();
    }

    fn shut_down(&self) {
        self.pool.shutdown();
    }
}
