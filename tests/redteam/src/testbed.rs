//! Where probes take place: sandboxes of the attack image, booted when first asked for.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use vmm::Machine;

use crate::attack_log::AttackLog;
use crate::latency::Latency;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::variant::Variant;
use crate::verdict::ProbeError;
use sandbox::{
    KvmConfig, KvmSandbox, Resets, Sandbox, SandboxError, SandboxSpec, SandboxState, ToolCall,
    ToolOutcome,
};

/// Which guest program a sandbox has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guest {
    /// The shipped guest program.
    Shipped,
    /// A guest program that runs every tool as root and without any confinement: what an attacker
    /// has who got through all of the guest's own defences.
    Bare,
    /// A guest program that is the attacker itself.
    Hostile,
}

/// How much longer an attack goes on that no deadline ends.
const BEYOND: Duration = Duration::from_secs(2);
const EVERY_DEFENCE: &str = "filter,privileges,mounts,limits,kill";

/// A sandbox, and the image that the testbed made for it where the guest program is another one.
type Kept = (Arc<dyn Sandbox>, Option<Variant>);

/// The sandboxes of a run, and what its probes measured.
pub struct Testbed {
    plan: Plan,
    sandboxes: Mutex<BTreeMap<Guest, Kept>>,
    latency: Mutex<BTreeMap<String, Latency>>,
    notes: Mutex<Vec<String>>,
    progress: Progress,
}

impl Testbed {
    /// A testbed in which nothing is booted yet.
    pub fn new(plan: Plan) -> Self {
        let (sandboxes, latency, notes, progress) = Default::default();
        Self { plan, sandboxes, latency, notes, progress }
    }

    /// What the run is to do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How far the running probe has come: the probe sets it, the runner reports it.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What a sandbox of the attack image under its own guest program is to be.
    pub fn spec(&self) -> SandboxSpec {
        self.plan.sandbox.clone().with_resets(Resets::Verified)
    }

    /// The sandbox with this guest program, ready.
    ///
    /// # Errors
    ///
    /// The image cannot be read or the sandbox does not boot.
    pub fn sandbox(&self, guest: Guest) -> Result<Arc<dyn Sandbox>, ProbeError> {
        self.ready(guest)
    }

    /// The sandbox with this guest program, ready, for a probe that looks into its KVM machine.
    ///
    /// # Errors
    ///
    /// [`ProbeError::NeedsKvm`]: the backend is not KVM. Otherwise as [`Testbed::sandbox`].
    pub fn kvm(&self, guest: Guest) -> Result<Arc<KvmSandbox>, ProbeError> {
        let backend = self.plan.backend.name();
        KvmSandbox::of(self.ready(guest)?).ok_or(ProbeError::NeedsKvm { backend })
    }

    /// The settings of the KVM backend, for a probe that makes KVM machines itself.
    ///
    /// # Errors
    ///
    /// [`ProbeError::NeedsKvm`]: the backend is another.
    pub fn kvm_config(&self) -> Result<&KvmConfig, ProbeError> {
        let backend: &dyn Any = &*self.plan.backend;
        let config = backend.downcast_ref::<KvmConfig>();
        config.ok_or_else(|| ProbeError::NeedsKvm { backend: self.plan.backend.name() })
    }

    /// Another sandbox that shares the golden state of the ordinary one, not booted.
    ///
    /// # Errors
    ///
    /// The ordinary sandbox has no golden state, or as [`Testbed::kvm`].
    pub fn fork(&self) -> Result<KvmSandbox, ProbeError> {
        KvmSandbox::fork_of(&*self.kvm(Guest::Shipped)?)
            .ok_or_else(|| ProbeError::Control("the sandbox has no golden state to fork".into()))
    }

    fn ready(&self, guest: Guest) -> Result<Arc<dyn Sandbox>, ProbeError> {
        let known = lock(&self.sandboxes).get(&guest).map(|(sandbox, _)| Arc::clone(sandbox));
        let sandbox = match known {
            Some(sandbox) => sandbox,
            None => self.make(guest)?,
        };
        sandbox.boot().map_err(ProbeError::at("booting the sandbox"))?;
        Ok(sandbox)
    }

    fn make(&self, guest: Guest) -> Result<Arc<dyn Sandbox>, ProbeError> {
        let mut spec = self.spec();
        let arguments = match guest {
            Guest::Shipped if self.plan.guest_without().is_empty() => None,
            Guest::Shipped => Some(undefended(&self.plan.guest_without())),
            Guest::Bare => Some(undefended(EVERY_DEFENCE)),
            Guest::Hostile => Some("init=/usr/bin/attack".to_owned()),
        };
        let variant = arguments.map(|a| Variant::new(&spec.image.dir, &a)).transpose()?;
        if let Some(variant) = &variant {
            spec.image = variant.source();
        }
        let sandbox = self.plan.backend.make(spec);
        lock(&self.sandboxes).insert(guest, (Arc::clone(&sandbox), variant));
        Ok(sandbox)
    }

    /// Runs an attack and reads its log.
    ///
    /// # Errors
    ///
    /// The sandbox failed, the attack did not run to its end, or one of its controls failed.
    pub fn attack(
        &self,
        sandbox: &dyn Sandbox,
        tool: &str,
        params: Value,
    ) -> Result<AttackLog, ProbeError> {
        let outcome = sandbox
            .execute_tool(call(tool, params, self.plan.deadline()))
            .map_err(ProbeError::at("running the attack"))?;
        AttackLog::read(&outcome)
    }

    /// Runs a tool within `deadline`.
    ///
    /// # Errors
    ///
    /// Those of [`Sandbox::execute_tool`].
    pub fn run(
        &self,
        sandbox: &dyn Sandbox,
        tool: &str,
        params: Value,
        deadline: Duration,
    ) -> Result<ToolOutcome, SandboxError> {
        sandbox.execute_tool(call(tool, params, deadline))
    }

    /// Runs an ordinary command. Gives what is wrong when it does not work.
    pub fn next_command(&self, sandbox: &dyn Sandbox) -> Option<String> {
        let text = "still here";
        let params = serde_json::json!({"message": text});
        match self.run(sandbox, "echo", params, self.plan.deadline()) {
            Ok(outcome) if outcome.exit_code == 0 && !outcome.stdout.is_empty() => None,
            Ok(outcome) => Some(format!("the next command ended with {}", outcome.exit_code)),
            Err(error) => Some(format!("the next command failed: {error}")),
        }
    }

    /// Resets a sandbox, verified, or boots it again if it has failed. Gives what went wrong.
    pub fn recover(&self, sandbox: &dyn Sandbox) -> Option<String> {
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

    /// Pauses a ready machine, lets `look` read it, and resumes it.
    ///
    /// # Errors
    ///
    /// There is no machine, it cannot be paused or resumed, or the error of `look`.
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
    ///
    /// # Errors
    ///
    /// An ordinary command or its reset fails.
    pub fn slack(&self, sandbox: &dyn Sandbox) -> Result<Duration, ProbeError> {
        let begun = Instant::now();
        if let Some(wrong) = self.next_command(sandbox).or_else(|| self.recover(sandbox)) {
            return Err(ProbeError::Control(wrong));
        }
        Ok(Duration::from_millis(250) + begun.elapsed() * 4)
    }

    /// The deadline to give to a command that has this one. Where the plan leaves deadlines out, it
    /// is later than `slack` allows for.
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

    /// The measurements and remarks so far.
    pub(crate) fn kept(&self) -> (BTreeMap<String, Latency>, Vec<String>) {
        (lock(&self.latency).clone(), lock(&self.notes).clone())
    }

    /// Resets every sandbox after a probe. True when all of them are usable.
    pub(crate) fn clean_up(&self) -> bool {
        let sandboxes: Vec<_> =
            lock(&self.sandboxes).values().map(|(sandbox, _)| Arc::clone(sandbox)).collect();
        sandboxes.iter().all(|sandbox| match self.recover(&**sandbox) {
            None => true,
            Some(reason) => {
                self.note(format!("a sandbox could not be reset: {reason}"));
                false
            }
        })
    }

    /// Ends every machine, so that a thread that waits for one goes on. The next probe gets new
    /// machines.
    pub(crate) fn abandon(&self) {
        for (sandbox, _) in lock(&self.sandboxes).values() {
            sandbox.shutdown();
        }
    }

    /// State of the ordinary sandbox.
    pub(crate) fn state(&self) -> SandboxState {
        let known =
            lock(&self.sandboxes).get(&Guest::Shipped).map(|(sandbox, _)| Arc::clone(sandbox));
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
