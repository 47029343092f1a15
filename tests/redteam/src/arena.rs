//! Where probes take place: sandboxes of the attack image, booted when first asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use vmm::Machine;

use super::attack_log::AttackLog;
use super::turns::Turns;
use super::variant::Variant;
use super::{Latency, Plan, ProbeError};
use sandbox::{
    KvmSandbox, Sandbox, SandboxConfig, SandboxError, SandboxState, ToolCall, ToolOutcome,
};

/// Which guest program a sandbox has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guest {
    /// The shipped one.
    Shipped,
    /// One that runs every tool as root and without any confinement: what an attacker has who got
    /// through all of the guest's own defences.
    Bare,
    /// One that is the attacker itself.
    Hostile,
}

/// How much longer an attack goes on that no deadline ends.
const BEYOND: Duration = Duration::from_secs(2);
const EVERY_DEFENCE: &str = "filter,privileges,mounts,limits,kill";

/// A sandbox and the image it is made of, where that is one of our own.
type Kept = (Arc<KvmSandbox>, Option<Variant>);

/// The sandboxes of a run, and what its probes measured.
pub struct Arena {
    plan: Plan,
    sandboxes: Mutex<BTreeMap<Guest, Kept>>,
    latency: Mutex<BTreeMap<String, Latency>>,
    notes: Mutex<Vec<String>>,
    turns: Turns,
}

impl Arena {
    /// Nothing is booted yet.
    pub fn new(plan: Plan) -> Self {
        let (sandboxes, latency, notes, turns) = Default::default();
        Self { plan, sandboxes, latency, notes, turns }
    }

    /// What was asked for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How far the probe that runs has come, for those who wait for it.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Configuration of a sandbox of the attack image under its own guest program.
    pub fn config(&self) -> SandboxConfig {
        SandboxConfig { verify: true, ..self.plan.sandbox.clone() }
    }

    /// The sandbox with this guest program, ready.
    pub fn sandbox(&self, guest: Guest) -> Result<Arc<KvmSandbox>, ProbeError> {
        let known = lock(&self.sandboxes).get(&guest).map(|(sandbox, _)| Arc::clone(sandbox));
        let sandbox = match known {
            Some(sandbox) => sandbox,
            None => self.make(guest)?,
        };
        sandbox.boot().map_err(ProbeError::at("booting the sandbox"))?;
        Ok(sandbox)
    }

    fn make(&self, guest: Guest) -> Result<Arc<KvmSandbox>, ProbeError> {
        let mut config = self.config();
        let arguments = match guest {
            Guest::Shipped if self.plan.guest_without().is_empty() => None,
            Guest::Shipped => Some(undefended(&self.plan.guest_without())),
            Guest::Bare => Some(undefended(EVERY_DEFENCE)),
            Guest::Hostile => Some("init=/usr/bin/attack".to_owned()),
        };
        let variant = arguments.map(|a| Variant::new(&config.image.dir, &a)).transpose()?;
        if let Some(variant) = &variant {
            config.image = variant.source();
        }
        let sandbox = Arc::new(KvmSandbox::new(config));
        lock(&self.sandboxes).insert(guest, (Arc::clone(&sandbox), variant));
        Ok(sandbox)
    }

    /// Runs an attack and reads what it says.
    pub fn attack(
        &self,
        sandbox: &KvmSandbox,
        tool: &str,
        params: Value,
    ) -> Result<AttackLog, ProbeError> {
        let outcome = sandbox
            .execute_tool(call(tool, params, self.plan.deadline()))
            .map_err(ProbeError::at("running the attack"))?;
        AttackLog::read(&outcome)
    }

    /// Runs a tool, which may fail.
    pub fn run(
        &self,
        sandbox: &KvmSandbox,
        tool: &str,
        params: Value,
        deadline: Duration,
    ) -> Result<ToolOutcome, SandboxError> {
        sandbox.execute_tool(call(tool, params, deadline))
    }

    /// An ordinary command works: what is wrong with it otherwise.
    pub fn next_command(&self, sandbox: &KvmSandbox) -> Option<String> {
        let text = "still here";
        let params = serde_json::json!({"message": text});
        match self.run(sandbox, "echo", params, self.plan.deadline()) {
            Ok(outcome) if outcome.exit_code == 0 && !outcome.stdout.is_empty() => None,
            Ok(outcome) => Some(format!("the next command ended with {}", outcome.exit_code)),
            Err(error) => Some(format!("the next command failed: {error}")),
        }
    }

    /// Puts a sandbox back, verified, and boots it again if it has failed. What went wrong.
    pub fn recover(&self, sandbox: &KvmSandbox) -> Option<String> {
        if self.plan.leaves_out("reset") {
            return None;
        }
        if sandbox.state() != SandboxState::Ready {
            return sandbox.boot().err().map(|error| format!("it cannot be booted again: {error}"));
        }
        match sandbox.reset_verified() {
            Ok(verified) => verified.verification.failure(),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Holds a ready machine and looks at it.
    pub fn held<T>(
        &self,
        sandbox: &KvmSandbox,
        look: impl FnOnce(&Machine) -> Result<T, ProbeError>,
    ) -> Result<T, ProbeError> {
        let machine = sandbox
            .machine()
            .ok_or_else(|| ProbeError::Control("the machine to look at is gone".to_owned()))?;
        machine.pause()?;
        let seen = look(&machine);
        machine.resume()?;
        seen
    }

    /// What an answer may take beyond its deadline: what the agent promises, and what an ordinary
    /// command and its reset take on this host.
    pub fn slack(&self, sandbox: &KvmSandbox) -> Result<Duration, ProbeError> {
        let begun = Instant::now();
        if let Some(wrong) = self.next_command(sandbox).or_else(|| self.recover(sandbox)) {
            return Err(ProbeError::Control(wrong));
        }
        Ok(Duration::from_millis(250) + begun.elapsed() * 4)
    }

    /// The deadline that a command with this one gets: a later one than `slack` allows for, where
    /// deadlines are left out.
    pub fn enforced(&self, deadline: Duration, slack: Duration) -> Duration {
        if self.plan.leaves_out("deadline") { deadline + slack + BEYOND } else { deadline }
    }

    /// Keeps a measurement for the report.
    pub fn measured(&self, name: &str, samples: &[Duration]) {
        lock(&self.latency).insert(name.to_owned(), Latency::of(samples));
    }

    /// Keeps a remark for the report.
    pub fn note(&self, text: impl Into<String>) {
        lock(&self.notes).push(text.into());
    }

    /// What was measured and remarked.
    pub(super) fn kept(&self) -> (BTreeMap<String, Latency>, Vec<String>) {
        (lock(&self.latency).clone(), lock(&self.notes).clone())
    }

    /// Puts every sandbox back after a probe. True when they are all usable.
    pub(super) fn clean_up(&self) -> bool {
        let sandboxes: Vec<_> =
            lock(&self.sandboxes).values().map(|(sandbox, _)| Arc::clone(sandbox)).collect();
        sandboxes.iter().all(|sandbox| match self.recover(sandbox) {
            None => true,
            Some(reason) => {
                self.note(format!("a sandbox could not be put back: {reason}"));
                false
            }
        })
    }

    /// Ends every machine, so that whoever waits for one goes on. The next probe gets new ones.
    pub(super) fn abandon(&self) {
        for (sandbox, _) in lock(&self.sandboxes).values() {
            sandbox.shutdown();
        }
    }

    /// What the ordinary sandbox is.
    pub(super) fn state(&self) -> SandboxState {
        let known = lock(&self.sandboxes).get(&Guest::Shipped).map(|(s, _)| Arc::clone(s));
        known.map_or(SandboxState::NotBooted, |sandbox| sandbox.state())
    }
}

fn undefended(without: &str) -> String {
    format!("init=/sbin/undefended-init BSM_WITHOUT={without}")
}

/// A call whose parameters are an object.
fn call(tool: &str, params: Value, deadline: Duration) -> ToolCall {
    let params = match params {
        Value::Object(params) => params,
        _ => Map::new(),
    };
    let mut call = ToolCall::new(tool, params);
    call.deadline_ms = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX);
    call
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
