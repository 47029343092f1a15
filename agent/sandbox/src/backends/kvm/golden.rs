//! The golden state of a sandbox: captured after its first boot, the start of every later one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use guest::wire::ToolDispatch;
use vmm::{Golden, Machine, MachineError};

use super::admission::Gate;
use super::connected::{self, Connected};
use super::observe::QUESTIONS;
use super::reports::boot_phases;
use super::{boot, freshness};
use crate::error::SandboxError;
use crate::state::{BootPath, BootReport};
use crate::verify::Baseline;

/// For a guest to become idle after its warm-up.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
const WARM_UP_LIMIT: Duration = Duration::from_secs(10);
/// Tool and command id of the warm-up. Not every image has the tool: the refusal warms up as well.
const WARM_UP_TOOL: &str = "echo";
const WARM_UP_COMMAND: &str = "warm-up";
const WARM_UPS: usize = 2;

/// A captured machine and what its host has to know to go on with it.
pub struct GoldenSandbox {
    golden: Arc<Golden>,
    gate: Arc<Gate>,
    guest_port: u32,
    host_port: u32,
    /// The guest's clock when it said it is ready, where that is known.
    guest_boot_us: u64,
    path: BootPath,
    /// Measured by the first machine that needs it.
    baseline: Mutex<Option<Arc<Baseline>>>,
    /// Whether the first machine has shown what commands write.
    profiled: Mutex<bool>,
}

impl GoldenSandbox {
    /// Warms a booted machine up, waits until it is idle, and captures it with its control
    /// connection open.
    pub fn capture(connected: &Connected) -> Result<Self, SandboxError> {
        let failed = |error: MachineError| capture_failed(connected, &error.to_string());
        for turn in 0..WARM_UPS {
            warm_up(connected, &format!("{WARM_UP_COMMAND}-{turn}"))?;
            warm_up_answers(connected)?;
        }
        let golden = connected.machine.capture_when_idle(IDLE_LIMIT).map_err(failed)?;
        let (guest_port, host_port) = connected.ports();
        let gate = Arc::clone(&connected.gate);
        let guest_boot_us = connected.report.guest_boot_us;
        let path = BootPath::Fork;
        let (baseline, profiled) = Default::default();
        Ok(Self { golden, gate, guest_port, host_port, guest_boot_us, path, baseline, profiled })
    }

    /// A captured machine that came from elsewhere: `guest_port` is where its guest program
    /// listens, and its control connection must be open.
    pub fn restored(
        golden: Arc<Golden>,
        gate: Arc<Gate>,
        guest_port: u32,
    ) -> Result<Self, SandboxError> {
        let control = golden.connections().into_iter().find(|(guest, _)| *guest == guest_port);
        let Some((guest_port, host_port)) = control else {
            return Err(super::not_available(&format!(
                "the snapshot holds no open connection to port {guest_port} of its guest: make it \
                 with `brainstorm-agent snapshot create`"
            )));
        };
        let path = BootPath::Snapshot;
        let (baseline, profiled) = Default::default();
        let guest_boot_us = 0;
        Ok(Self { golden, gate, guest_port, host_port, guest_boot_us, path, baseline, profiled })
    }

    /// What was captured.
    pub fn golden(&self) -> &Arc<Golden> {
        &self.golden
    }

    /// What machines in this state are compared with, once it has been measured.
    pub fn baseline(&self) -> Option<Arc<Baseline>> {
        self.measured().clone()
    }

    /// Measures the baseline, unless that has been done. A caller that comes meanwhile waits.
    pub fn measure_baseline(
        &self,
        measure: impl FnOnce() -> Result<Baseline, SandboxError>,
    ) -> Result<(), SandboxError> {
        let mut measured = self.measured();
        if measured.is_none() {
            *measured = Some(Arc::new(measure()?));
        }
        Ok(())
    }

    /// Learns what commands write, unless that has been done. A caller that comes meanwhile waits.
    pub fn profile_once(
        &self,
        learn: impl FnOnce() -> Result<(), SandboxError>,
    ) -> Result<(), SandboxError> {
        let mut profiled = self.profiled.lock().unwrap_or_else(PoisonError::into_inner);
        if !*profiled {
            learn()?;
            *profiled = true;
        }
        Ok(())
    }

    fn measured(&self) -> MutexGuard<'_, Option<Arc<Baseline>>> {
        self.baseline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another machine in this state, running. `register` is given the machine before it runs, so
    /// that others can stop it, and says whether to go on.
    pub fn fork(
        &self,
        register: impl FnOnce(&Arc<Machine>) -> bool,
    ) -> Result<Connected, SandboxError> {
        let begun = Instant::now();
        let machine = Machine::fork(&self.golden).map_err(boot::machine_failed)?;
        let machine = Arc::new(machine);
        if !register(&machine) {
            return Err(super::not_available("the sandbox was shut down while it was booting"));
        }
        let control = machine
            .vsock()
            .reattach(self.guest_port, self.host_port)
            .map_err(|e| boot::failed_at(&machine, "taking over the control connection", &e))?;
        machine.resume().map_err(boot::machine_failed)?;
        let report = BootReport {
            path: self.path,
            image: Duration::ZERO,
            machine: boot_phases(&machine),
            to_ready: begun.elapsed(),
            handshake: Duration::ZERO,
            capture: Duration::ZERO,
            baseline: Duration::ZERO,
            total: begun.elapsed(),
            guest_boot_us: self.guest_boot_us,
        };
        Connected::new(machine, control, Arc::clone(&self.gate), report)
    }
}

/// Runs a tool without using its result: what it makes the guest set up is part of the golden
/// state then, and not set up again after every reset.
pub fn warm_up(connected: &Connected, command_id: &str) -> Result<(), SandboxError> {
    let dispatch = ToolDispatch {
        command_id: command_id.to_owned(),
        tool: WARM_UP_TOOL.to_owned(),
        params: serde_json::Map::from_iter([("message".to_owned(), WARM_UP_COMMAND.into())]),
        deadline_ms: WARM_UP_LIMIT.as_millis() as i64,
        freshness: freshness::draw()?,
    };
    let until = Instant::now() + WARM_UP_LIMIT;
    match connected.channel().dispatch(dispatch, 4096, until) {
        Ok(_) => Ok(()),
        Err(failure) => Err(connected.explain(failure.error)),
    }
}

/// Asks what every machine will be asked after its reset, for the same reason.
pub fn warm_up_answers(connected: &Connected) -> Result<(), SandboxError> {
    for answer in connected.query_all(&QUESTIONS, WARM_UP_LIMIT) {
        answer.map_err(|error| connected.explain(error))?;
    }
    Ok(())
}

/// Why there is no golden state to go by, with what the guest said last.
pub fn capture_failed(connected: &Connected, reason: &str) -> SandboxError {
    SandboxError::BootFailed {
        reason: format!("while capturing its golden state: {reason}"),
        console: connected.machine.console().last_lines(connected::CONSOLE_LINES),
    }
}
