//! The machines that commands of a probe run on.

use std::time::{Duration, Instant};

use guest::registry::CallError;
use serde_json::{Map, Value};

use super::signer::failed;
use crate::{Guest, ProbeError, Testbed};
use brainstorm_agent::commands::executor::{Executor, MayBegin, PoolExecutor, ToolFacts, Tools};
use protocol::message::WireState;
use sandbox::KvmSource;
use sandbox::pool::{OnFault, Pool, PoolConfig};
use sandbox::{Executed, Failure, KvmSandbox, Sandbox, ToolCall, Verification};

/// One machine, as an agent uses it or without resets.
pub enum Machines {
    /// A pool of one machine.
    Pool(PoolExecutor),
    /// A machine that is never reset: every command gets the verification from before the first.
    Unreset {
        /// The machine.
        sandbox: Box<KvmSandbox>,
        /// Tools of the machine.
        tools: Tools,
        /// The verification that every command gets.
        told: Box<Verification>,
    },
}

impl Machines {
    /// Makes the machine as a fork of the ordinary sandbox.
    pub fn of(testbed: &Testbed) -> Result<Self, ProbeError> {
        let first = testbed.kvm(Guest::Shipped)?;
        let spec = testbed.spec();
        let manifest = spec.image.manifest().map_err(failed)?;
        let manifest = manifest.ok_or_else(|| failed("the attack image has no manifest"))?;
        let tools = Tools::new(&manifest, &spec.enable_tools).map_err(failed)?;
        if !testbed.plan().leaves_out("reset") {
            let source = KvmSource::forking(&first).map_err(ProbeError::at("forking"))?;
            let one = PoolConfig { on_fault: OnFault::Halt, ..PoolConfig::new(1) };
            let pool = Pool::start(source, one).map_err(failed)?;
            return Ok(Self::Pool(PoolExecutor::new(pool, tools)));
        }
        let sandbox = testbed.fork()?;
        sandbox.boot().map_err(ProbeError::at("booting a machine"))?;
        let told = sandbox.reset_verified().map_err(ProbeError::at("looking at a machine"))?;
        let (sandbox, told) = (Box::new(sandbox), Box::new(told.verification));
        Ok(Self::Unreset { sandbox, tools, told })
    }
}

impl Executor for Machines {
    fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<ToolFacts, CallError> {
        match self {
            Self::Pool(pool) => pool.check(tool, params),
            Self::Unreset { tools, .. } => tools.check(tool, params),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Self::Pool(pool) => pool.capacity(),
            Self::Unreset { .. } => 8,
        }
    }

    fn execute(&self, tenant: &str, call: ToolCall, may_begin: MayBegin) -> Executed {
        let (sandbox, told) = match self {
            Self::Pool(pool) => return pool.execute(tenant, call, may_begin),
            Self::Unreset { sandbox, told, .. } => (sandbox, told),
        };
        if let Err(refused) = may_begin() {
            return Executed::refused(refused);
        }
        let begun = Instant::now();
        let result = sandbox.execute_tool(call).map_err(Failure::from);
        let (execute, reset_took) = (begun.elapsed(), Duration::ZERO);
        Executed { result, reset: Some(Ok((**told).clone())), execute, reset_took }
    }

    fn state(&self) -> WireState {
        match self {
            Self::Pool(pool) => pool.state(),
            Self::Unreset { .. } => WireState::Ready,
        }
    }

    fn abort(&self) {
        match self {
            Self::Pool(pool) => pool.abort(),
            Self::Unreset { sandbox, .. } => sandbox.shutdown(),
        }
    }

    fn halt(&self, reason: &str) {
        if let Self::Pool(pool) = self {
            pool.halt(reason);
        }
    }

    fn resume(&self) {
        if let Self::Pool(pool) = self {
            pool.resume();
        }
    }

    fn shut_down(&self) {
        match self {
            Self::Pool(pool) => pool.shut_down(),
            Self::Unreset { sandbox, .. } => sandbox.shutdown(),
        }
    }
}
