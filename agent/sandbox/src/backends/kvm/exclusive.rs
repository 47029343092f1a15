//! A machine that one caller has for itself, to reset it.

use std::sync::{Arc, RwLockWriteGuard};
use std::time::Instant;

use tracing::{debug, warn};
use vmm::{IntegrityPlan, IntegrityReport, Machine, MachineError, ResetReport, Strategy};

use super::connected::Connected;
use super::reports::reset_phases;
use super::{KvmSandbox, Phase, not_available};
use crate::error::SandboxError;
use crate::state::ResetOutcome;
use crate::{Cause, ForensicDump};

/// Looks at a machine that has been reset and has not run yet.
pub type Inspection<'a> = dyn FnMut(&Machine) -> Result<(), MachineError> + 'a;

/// The only one to use a machine, until [`ExclusiveMachine::end`] says what has become of it. Every other caller
/// waits, and calls that were under way have failed.
pub struct ExclusiveMachine<'a> {
    sandbox: &'a KvmSandbox,
    connected: &'a Arc<Connected>,
    strategy: Strategy,
    begun: Instant,
    /// Nothing once it has ended.
    excluded: Option<RwLockWriteGuard<'a, ()>>,
}

impl<'a> ExclusiveMachine<'a> {
    /// Takes the machine from all other callers.
    pub fn take(
        sandbox: &'a KvmSandbox,
        connected: &'a Arc<Connected>,
    ) -> Result<Self, SandboxError> {
        let begun = Instant::now();
        let strategy = {
            let mut inner = sandbox.lock();
            let Some(strategy) = inner.config.strategy(&inner.spec) else {
                return Err(not_available(
                    "the sandbox keeps no golden state: ask for resets and boot it again",
                ));
            };
            if !matches!(&inner.phase, Phase::Ready(current) if Arc::ptr_eq(current, connected)) {
                return Err(not_available("another caller has reset or ended the sandbox"));
            }
            inner.phase = Phase::Resetting(Arc::clone(connected));
            strategy
        };
        let excluded = Some(connected.exclude_calls());
        Ok(Self { sandbox, connected, strategy, begun, excluded })
    }

    /// How to put the machine back.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// How a reset went that began with this.
    pub fn outcome(&self, report: &ResetReport) -> ResetOutcome {
        ResetOutcome {
            phases: reset_phases(&report.parts),
            dirty_pages: report.dirty_pages,
            disk_blocks: report.disk_blocks,
            took: self.begun.elapsed(),
        }
    }

    /// False when another caller has ended the machine meanwhile: what goes wrong then is no incident.
    pub fn is_current(&self) -> bool {
        let inner = self.sandbox.lock();
        matches!(&inner.phase, Phase::Resetting(current) if Arc::ptr_eq(current, self.connected))
    }

    /// Gives the machine back to all callers, or ends it for the reason given.
    pub fn end(mut self, result: Result<(), &str>) {
        self.decide(result);
    }

    /// Gives all callers another machine in place of this one, which has ended.
    pub fn replace_with(mut self, successor: Connected) {
        let Some(excluded) = self.excluded.take() else { return };
        let mut inner = self.sandbox.lock();
        if matches!(&inner.phase, Phase::Resetting(current) if Arc::ptr_eq(current, self.connected))
        {
            inner.phase = Phase::Ready(Arc::new(successor));
        }
        drop(inner);
        drop(excluded);
        self.sandbox.phase_changed.notify_all();
        self.connected.machine.shutdown();
    }

    fn decide(&mut self, result: Result<(), &str>) {
        let Some(excluded) = self.excluded.take() else { return };
        let mut inner = self.sandbox.lock();
        if matches!(&inner.phase, Phase::Resetting(current) if Arc::ptr_eq(current, self.connected))
        {
            inner.phase = match result {
                Ok(()) => Phase::Ready(Arc::clone(self.connected)),
                Err(reason) => Phase::Failed(reason.to_owned()),
            };
        }
        drop(inner);
        drop(excluded);
        self.sandbox.phase_changed.notify_all();
        if let Err(reason) = result {
            warn!(reason, "ending the machine");
            self.connected.machine.shutdown();
        }
    }
}

impl Drop for ExclusiveMachine<'_> {
    fn drop(&mut self) {
        if self.excluded.is_some() && self.is_current() {
            let cause = Cause::ResetFailed("its reset was not finished".to_owned());
            self.sandbox.report_incident(self.connected, cause, ForensicDump::default);
        }
        self.decide(Err("its reset was not finished"));
    }
}

/// Puts a machine back to its golden state, with a control connection that knows no request.
///
/// `inspect` sees the machine when it has been reset and has not run yet.
pub fn reset_machine(
    connected: &Connected,
    strategy: Strategy,
    inspect: Option<&mut Inspection<'_>>,
) -> Result<ResetReport, SandboxError> {
    let report =
        reset(&connected.machine, strategy, inspect).map_err(|error| reset_failed(&error))?;
    reconnect(connected, &report)?;
    Ok(report)
}

/// Resets and has the machine check itself in one step, which is cheaper than two. `look` sees what it found
/// while the machine stands still.
pub fn reset_and_check(
    connected: &Connected,
    strategy: Strategy,
    plan: &IntegrityPlan,
    look: impl FnOnce(&Machine, Result<IntegrityReport, MachineError>),
) -> Result<ResetReport, SandboxError> {
    let machine = &connected.machine;
    let report = hold(machine)
        .and_then(|()| machine.reset_and_check(strategy, plan))
        .and_then(|(report, check)| {
            look(machine, check);
            machine.resume().map(|()| report)
        })
        .map_err(|error| reset_failed(&error))?;
    reconnect(connected, &report)?;
    Ok(report)
}

fn reconnect(connected: &Connected, report: &ResetReport) -> Result<(), SandboxError> {
    connected.reconnect()?;
    debug!(took = ?report.parts.total(), pages = report.dirty_pages, "reset");
    Ok(())
}

/// Has a machine stand still, also when another caller has paused it.
pub fn hold(machine: &Machine) -> Result<(), MachineError> {
    if machine.is_paused() { Ok(()) } else { machine.pause() }
}

/// The error of a machine that cannot be reset.
pub fn reset_failed(error: &MachineError) -> SandboxError {
    SandboxError::ResetFailed { reason: error.to_string() }
}

fn reset(
    machine: &Machine,
    strategy: Strategy,
    inspect: Option<&mut Inspection<'_>>,
) -> Result<ResetReport, MachineError> {
    let report = match inspect {
        None => machine.reset(strategy)?,
        Some(inspect) => {
            hold(machine)?;
            let report = machine.reset(strategy)?;
            inspect(machine)?;
            report
        }
    };
    if machine.is_paused() {
        machine.resume()?;
    }
    Ok(report)
}
