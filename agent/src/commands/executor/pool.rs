//! Commands on the machines of a pool.

use std::time::Instant;

use guest::manifest::ImageManifest;
use guest::registry::CallError;
use protocol::message::WireState;
use sandbox::pool::{CallOptions, Pool, PoolMetrics};
use sandbox::{Executed, Failure, SandboxError, ToolCall};
use serde_json::{Map, Value};

use super::{Executor, MayBegin, ToolFacts, Tools};

/// Runs commands on the machines of a pool.
pub struct PoolExecutor {
    pool: Pool,
    tools: Tools,
}

impl PoolExecutor {
    /// Runs those tools on the machines of that pool.
    pub fn new(pool: Pool, tools: Tools) -> Self {
        Self { pool, tools }
    }

    /// The machines.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl Executor for PoolExecutor {
    fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<ToolFacts, CallError> {
        self.tools.check(tool, params)
    }

    fn image(&self) -> Option<&ImageManifest> {
        Some(self.tools.manifest())
    }

    fn capacity(&self) -> usize {
        self.pool.most_calls()
    }

    fn execute(&self, tenant: &str, call: ToolCall, may_begin: MayBegin) -> Executed {
        let options = CallOptions { wait_for_reset: true, verify: true };
        let mut begun = Instant::now();
        let ran = self.pool.execute_with(tenant, call, options, |_| {
            begun = Instant::now();
            may_begin()
        });
        let took = begun.elapsed();
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) => {
                return Executed::refused(error);
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
