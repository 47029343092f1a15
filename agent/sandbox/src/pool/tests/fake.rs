//! Machines that are no machines, and a world in which a test decides what happens when.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use guest::wire::QueryKind;
use serde_json::{Map, Value};

use crate::pool::SandboxSource;
use crate::{
    BootPath, BootReport, Phases, QueryAnswer, ResetOutcome, Sandbox, SandboxError, SandboxState,
    ToolCall, ToolOutcome, Verification, VerifiedReset,
};

/// No test waits longer for anything.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What has happened, and what is to happen.
#[derive(Default)]
pub struct Facts {
    /// Calls in the order in which machines began with them: id and deadline.
    pub calls: Vec<(String, i64)>,
    pub running: usize,
    pub most_running: usize,
    pub resetting: usize,
    pub made: usize,
    pub tried: usize,
    pub ended: usize,
    pub recaptured: usize,
    /// What must never happen, in words.
    pub violations: Vec<String>,
    /// The next ones fail.
    pub failing_makes: usize,
    pub failing_resets: usize,
    /// The next verifications find something else than a golden machine.
    pub findings: Vec<FakeFinding>,
    /// Calls with these ids do not end, nor do resets and shutdowns, until that changes.
    pub held_calls: Vec<String>,
    pub hold_resets: bool,
    /// Resets of machines that were asked something.
    pub hold_second_resets: bool,
    pub failing_second_resets: usize,
    pub hold_ends: bool,
    /// Looks at idle machines, those that do not end until that changes, and what the next ones
    /// find.
    pub scrubs: usize,
    pub looking: usize,
    pub hold_scrubs: bool,
    pub scrub_findings: Vec<FakeFinding>,
}

/// What a verification may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakeFinding {
    Golden,
    Divergence,
    Silence,
    Panic,
}

#[derive(Default)]
pub struct World {
    facts: Mutex<Facts>,
    changed: Condvar,
}

impl World {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap()
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        let result = change(&mut self.facts());
        self.changed.notify_all();
        result
    }

    /// Waits until something is the case.
    pub fn until(&self, done: impl Fn(&Facts) -> bool) -> MutexGuard<'_, Facts> {
        let until = Instant::now() + LIMIT;
        let mut facts = self.facts();
        while !done(&facts) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "what the test waits for does not happen");
            facts = self.changed.wait_timeout(facts, left).unwrap().0;
        }
        facts
    }

    pub fn hold(&self, ids: &[&str]) {
        self.change(|facts| facts.held_calls.extend(ids.iter().map(ToString::to_string)));
    }

    pub fn release(&self, id: &str) {
        self.change(|facts| facts.held_calls.retain(|held| held != id));
    }

    pub fn release_all(&self) {
        self.change(|facts| {
            facts.held_calls.clear();
            facts.hold_resets = false;
            facts.hold_second_resets = false;
            facts.hold_ends = false;
            facts.hold_scrubs = false;
        });
    }

    pub fn assert_clean(&self) {
        let facts = self.facts();
        assert!(facts.violations.is_empty(), "{:?}", facts.violations);
    }
}

pub struct FakeSource(pub Arc<World>);

impl FakeSource {
    /// A machine that a test without threads can touch.
    pub fn fake(&self) -> Result<Fake, SandboxError> {
        let made = self.0.change(|facts| {
            facts.tried += 1;
            let fails = facts.failing_makes > 0;
            if fails {
                facts.failing_makes -= 1;
                return false;
            }
            facts.made += 1;
            true
        });
        if !made {
            let reason = "no machine today".to_owned();
            return Err(SandboxError::BootFailed { reason, console: Vec::new() });
        }
        Ok(Fake {
            world: Arc::clone(&self.0),
            inside: Mutex::new(Inside { alive: true, ..Inside::default() }),
        })
    }
}

impl SandboxSource for FakeSource {
    fn make(&self) -> Result<Arc<dyn Sandbox>, SandboxError> {
        Ok(Arc::new(self.fake()?))
    }

    fn bytes_per_machine(&self) -> u64 {
        1 << 20
    }

    fn recapture(&self) -> Result<(), SandboxError> {
        self.0.change(|facts| facts.recaptured += 1);
        Ok(())
    }
}

/// A machine that keeps what calls leave in it until it is reset.
pub struct Fake {
    world: Arc<World>,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    alive: bool,
    uses_since_reset: usize,
    /// It has been asked something since its last reset.
    asked: bool,
    /// A worker looks at it.
    looked_at: bool,
    files: Vec<String>,
}

impl Fake {
    fn violated(&self, what: &str) {
        self.world.change(|facts| facts.violations.push(what.to_owned()));
    }

    fn alive(&self) -> bool {
        self.inside.lock().unwrap().alive
    }

    /// For tests without threads: a call as it may be on a clean machine.
    pub fn touch(&self) {
        let mut inside = self.inside.lock().unwrap();
        inside.uses_since_reset += 1;
        assert!(inside.alive, "an ended machine was handed out");
        assert_eq!(inside.uses_since_reset, 1, "a dirty machine was handed out");
    }
}

impl Sandbox for Fake {
    fn boot(&self) -> Result<BootReport, SandboxError> {
        Ok(BootReport {
            path: BootPath::Fork,
            image: Duration::ZERO,
            machine: Phases::default(),
            to_ready: Duration::ZERO,
            handshake: Duration::ZERO,
            capture: Duration::ZERO,
            baseline: Duration::ZERO,
            total: Duration::ZERO,
            guest_boot_us: 0,
        })
    }

    fn execute_tool(&self, call: ToolCall) -> Result<ToolOutcome, SandboxError> {
        let stdout = {
            let mut inside = self.inside.lock().unwrap();
            inside.uses_since_reset += 1;
            if inside.uses_since_reset > 1 {
                self.violated("a dirty machine was handed out");
            }
            if inside.asked {
                self.violated("a machine was handed out that had been asked something");
            }
            if inside.looked_at {
                self.violated("a machine was handed out that a worker looks at");
            }
            inside.files.push(call.command_id.clone());
            inside.files.join(",").into_bytes()
        };
        self.world.change(|facts| {
            facts.calls.push((call.command_id.clone(), call.deadline_ms));
            facts.running += 1;
            facts.most_running = facts.most_running.max(facts.running);
        });
        assert!(call.tool != "panic", "as the test wanted");
        drop(
            self.world.until(|facts| !facts.held_calls.contains(&call.command_id) || !self.alive()),
        );
        self.world.change(|facts| facts.running -= 1);
        if !self.alive() {
            return Err(SandboxError::NotAvailable { reason: "ended".into() });
        }
        if call.tool == "fail" {
            return Err(SandboxError::NotAvailable { reason: "as the test wanted".into() });
        }
        Ok(ToolOutcome::of_stdout(&call.command_id, 0, stdout))
    }

    fn reset(&self) -> Result<ResetOutcome, SandboxError> {
        let second = self.inside.lock().unwrap().asked;
        let held = |facts: &Facts| {
            if second { facts.hold_second_resets } else { facts.hold_resets }
        };
        self.world.change(|facts| facts.resetting += 1);
        drop(self.world.until(|facts| !held(facts) || !self.alive()));
        let fails = self.world.change(|facts| {
            facts.resetting -= 1;
            let failing =
                if second { &mut facts.failing_second_resets } else { &mut facts.failing_resets };
            let fails = *failing > 0;
            *failing -= usize::from(fails);
            fails
        });
        if fails || !self.alive() {
            return Err(SandboxError::ResetFailed { reason: "it stays as it is".into() });
        }
        let mut inside = self.inside.lock().unwrap();
        inside.uses_since_reset = 0;
        inside.asked = false;
        inside.files.clear();
        Ok(ResetOutcome {
            phases: Phases::default(),
            dirty_pages: 1,
            disk_blocks: 0,
            took: Duration::ZERO,
        })
    }

    fn reset_and_verify(&self) -> Result<VerifiedReset, SandboxError> {
        let outcome = self.reset()?;
        self.inside.lock().unwrap().asked = true;
        let finding =
            self.world.change(|facts| facts.findings.pop()).unwrap_or(FakeFinding::Golden);
        let verification = verification(finding);
        Ok(VerifiedReset { outcome: Some(outcome), verification })
    }

    fn scrub(&self) -> Option<Verification> {
        {
            let mut inside = self.inside.lock().unwrap();
            if inside.uses_since_reset > 0 || inside.asked {
                self.violated("a machine in use was looked at");
            }
            inside.looked_at = true;
        }
        self.world.change(|facts| {
            facts.scrubs += 1;
            facts.looking += 1;
        });
        drop(self.world.until(|facts| !facts.hold_scrubs || !self.alive()));
        self.world.change(|facts| facts.looking -= 1);
        self.inside.lock().unwrap().looked_at = false;
        self.world.change(|facts| facts.scrub_findings.pop()).map(verification)
    }

    fn query(&self, _: QueryKind) -> Result<QueryAnswer, SandboxError> {
        Err(SandboxError::NotAvailable { reason: "a fake knows nothing".into() })
    }

    fn shutdown(&self) {
        drop(self.world.until(|facts| !facts.hold_ends));
        let was_alive = std::mem::replace(&mut self.inside.lock().unwrap().alive, false);
        if was_alive {
            self.world.change(|facts| facts.ended += 1);
        }
    }

    fn state(&self) -> SandboxState {
        if self.alive() { SandboxState::Ready } else { SandboxState::NotBooted }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if self.alive() && !std::thread::panicking() {
            self.violated("a machine was dropped without being ended");
        }
    }
}

fn verification(finding: FakeFinding) -> Verification {
    assert!(finding != FakeFinding::Panic, "as the test wanted");
    let agreeing = Verification::agreeing(SystemTime::UNIX_EPOCH, "golden", "disk", 7);
    Verification {
        descriptors: (finding == FakeFinding::Golden).then_some(7),
        silent: finding == FakeFinding::Silence,
        ..agreeing
    }
}

/// A call that is known by its id.
pub fn call(id: &str) -> ToolCall {
    call_of("run", id)
}

pub fn call_of(tool: &str, id: &str) -> ToolCall {
    ToolCall { command_id: id.to_owned(), ..ToolCall::new(tool, Map::<String, Value>::new()) }
}

/// Tenants by name.
pub fn tenants(of: &[(&str, usize)]) -> BTreeMap<String, usize> {
    of.iter().map(|(name, busy)| ((*name).to_owned(), *busy)).collect()
}
