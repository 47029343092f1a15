//! The machine: boot, pause, resume, look at, shut down.

mod assembly;
mod checks;
mod config;
mod disk;
mod error;
mod idle;
mod running;
mod status;
mod stop_state;
#[cfg(any(test, feature = "testing"))]
mod tamper;
mod wiring;

pub use config::{ConfigError, MachineConfig, MachineConfigBuilder};
pub use error::MachineError;
pub use status::{BootTimings, MachineState, StopReason};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::devices::vsock::{VsockDevice, VsockHost};
use crate::devices::{Checkpoint, Console, ConsoleSnapshot, Mark};
use crate::kernel_call::KernelCall;
use crate::kvm::DirtyTracking;
use crate::snapshot::{Differences, Golden, ResetError, ResetReport, Strategy};
use assembly::HostHandles;
use running::RunningMachine;
use stop_state::StopState;

/// A microVM.
///
/// `create` → `boot` → (`pause` ⇄ `resume`) → `shutdown`; once captured while paused, `reset` at
/// any time. A guest that panics, resets itself,
/// breaks a device or a vCPU stops the machine by itself; [`Machine::stop_reason`] says why.
/// Dropping a machine shuts it down. All methods can be called from any thread.
pub struct Machine {
    phase: Mutex<Phase>,
    stop_state: Arc<StopState>,
    console: Console,
    checkpoint: Checkpoint,
    vsock: VsockHost,
}

enum Phase {
    Created(Box<(MachineConfig, DirtyTracking, VsockDevice)>),
    Running(RunningMachine),
    Paused(RunningMachine),
    /// A reset failed half way. Nothing runs; only another reset, or the end, comes next.
    Poisoned(RunningMachine, String),
    Ended,
}

impl Machine {
    /// Checks the configuration. Nothing runs and no memory is used yet, but
    /// [`VsockHost::listen`] works, so that a guest can be awaited before it starts.
    ///
    /// # Errors
    ///
    /// [`MachineError::Config`] when a number is out of its range.
    pub fn create(config: MachineConfig) -> Result<Self, MachineError> {
        Self::create_with(config, DirtyTracking::default())
    }

    /// [`Machine::create`], with a choice of how dirty pages are found.
    ///
    /// # Errors
    ///
    /// As [`Machine::create`].
    pub fn create_with(
        config: MachineConfig,
        tracking: DirtyTracking,
    ) -> Result<Self, MachineError> {
        config.check()?;
        let console = Console::new(config.console_bytes);
        let (device, vsock) = VsockDevice::new(u64::from(config.guest_cid));
        Ok(Self {
            stop_state: Arc::new(StopState::new(console.clone(), vsock.clone())),
            phase: Mutex::new(Phase::Created(Box::new((config, tracking, device)))),
            console,
            checkpoint: Checkpoint::default(),
            vsock,
        })
    }

    /// Loads the kernel and starts the vCPUs. Returns without waiting for the guest.
    ///
    /// After an error nothing is left of the machine: it is ended and can be dropped.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine was booted or shut down before; otherwise what is
    /// missing on the host: KVM, memory, threads; or why the kernel does not fit.
    pub fn boot(&self) -> Result<(), MachineError> {
        self.boot_paused()?;
        self.resume()
    }

    /// Loads the kernel and stops short of its first instruction.
    ///
    /// # Errors
    ///
    /// As [`Machine::boot`].
    pub fn boot_paused(&self) -> Result<(), MachineError> {
        let mut phase = self.lock();
        match std::mem::replace(&mut *phase, Phase::Ended) {
            Phase::Created(parts) => {
                let (config, tracking, vsock) = *parts;
                let live = RunningMachine::boot(&config, tracking, self.handles(vsock))
                    .inspect_err(|e| self.never_started(e))?;
                live.core.devices.quiesce();
                *phase = Phase::Paused(live);
                Ok(())
            }
            other => {
                *phase = other;
                Err(phase.wrong("boot"))
            }
        }
    }

    /// A new machine in a golden state, paused. It shares golden memory and the golden disk with
    /// every other one and owns only what it changes. Streams of the connections that were open
    /// at the capture come from [`VsockHost::reattach`].
    ///
    /// # Errors
    ///
    /// What is missing on the host: KVM, memory, threads; or [`MachineError::Reset`] when a part of the
    /// state cannot be restored on this host.
    pub fn fork(golden: &Arc<Golden>) -> Result<Self, MachineError> {
        Self::fork_with(golden, DirtyTracking::default())
    }

    /// [`Machine::fork`], with a choice of how dirty pages are found.
    ///
    /// # Errors
    ///
    /// As [`Machine::fork`].
    pub fn fork_with(golden: &Arc<Golden>, tracking: DirtyTracking) -> Result<Self, MachineError> {
        let console = Console::new(golden.origin.console_bytes);
        let (device, vsock) = VsockDevice::new(u64::from(golden.origin.guest_cid));
        let machine = Self {
            stop_state: Arc::new(StopState::new(console.clone(), vsock.clone())),
            phase: Mutex::new(Phase::Ended),
            console,
            checkpoint: Checkpoint::default(),
            vsock,
        };
        let live = RunningMachine::fork(golden, tracking, machine.handles(device))
            .inspect_err(|e| machine.never_started(e))?;
        *machine.lock() = Phase::Paused(live);
        Ok(machine)
    }

    /// Captures the machine, which must be paused, as the state that [`Machine::reset`] goes back
    /// to. Capture it while its vCPUs wait and its connections are idle: that moment is what every
    /// reset returns to.
    ///
    /// From here on the guest may write only those model-specific registers that a reset restores.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not paused, [`MachineError::AlreadyCaptured`] when it
    /// has a golden state, [`ResetError::DeadlineNear`] when a timer of the guest is due: nothing has changed
    /// then, and [`Machine::capture_when_idle`] waits for a better moment. After any other error, such as of
    /// KVM or of memory, the machine is poisoned.
    pub fn capture(&self) -> Result<Arc<Golden>, MachineError> {
        let mut golden = None;
        self.change("capture", |phase| match phase {
            Phase::Paused(live) if live.golden().is_some() => {
                (Phase::Paused(live), Err(MachineError::AlreadyCaptured))
            }
            Phase::Paused(live) => match live.capture() {
                Ok(captured) => {
                    golden = Some(captured);
                    (Phase::Paused(live), Ok(()))
                }
                // Nothing has moved: the guest may run on to its timer.
                Err(e @ MachineError::Reset(ResetError::DeadlineNear)) => {
                    (Phase::Paused(live), Err(e))
                }
                // Half a capture may have moved RAM already.
                Err(e) => (Phase::Poisoned(live, e.to_string()), Err(e)),
            },
            other => {
                let error = other.wrong("capture");
                (other, Err(error))
            }
        })?;
        golden.ok_or(MachineError::NotCaptured)
    }

    /// Resets the machine to its golden state, in place. A running machine runs on from there,
    /// a paused one stays paused. After an error nothing runs, and only another reset that
    /// succeeds makes the machine usable again.
    ///
    /// The streams of connections that were open at the capture go on; all others fail with
    /// [`VsockError::Gone`](crate::VsockError::Gone).
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not booted or has stopped,
    /// [`MachineError::NotCaptured`] without a golden state. After any other error the machine is poisoned.
    pub fn reset(&self, strategy: Strategy) -> Result<ResetReport, MachineError> {
        Ok(self.reset_with(strategy, false)?.0)
    }

    /// Resets the machine as [`Machine::reset`] does, and returns the calls of the kernel that the
    /// reset made, in order, with the time of each. Recording makes the reset slower.
    ///
    /// # Errors
    ///
    /// As [`Machine::reset`].
    pub fn reset_recording_calls(
        &self,
        strategy: Strategy,
    ) -> Result<(ResetReport, Vec<KernelCall>), MachineError> {
        self.reset_with(strategy, true)
    }

    fn reset_with(
        &self,
        strategy: Strategy,
        records: bool,
    ) -> Result<(ResetReport, Vec<KernelCall>), MachineError> {
        let mut report = None;
        self.change("reset", |phase| {
            let (live, runs) = match phase {
                // A capture that failed: there is nothing to go back to.
                Phase::Poisoned(live, reason) if live.golden().is_none() => {
                    return (Phase::Poisoned(live, reason), Err(MachineError::NotCaptured));
                }
                Phase::Running(live) => (live, true),
                Phase::Paused(live) | Phase::Poisoned(live, _) => (live, false),
                other @ (Phase::Created(_) | Phase::Ended) => {
                    let error = other.wrong("reset");
                    return (other, Err(error));
                }
            };
            if live.golden().is_none() {
                let phase = if runs { Phase::Running(live) } else { Phase::Paused(live) };
                return (phase, Err(MachineError::NotCaptured));
            }
            match live.reset(strategy, runs, records) {
                Ok(done) => {
                    report = Some(done);
                    (if runs { Phase::Running(live) } else { Phase::Paused(live) }, Ok(()))
                }
                Err(e) => (Phase::Poisoned(live, e.to_string()), Err(e)),
            }
        })?;
        report.ok_or(MachineError::NotCaptured)
    }

    /// Compares a paused machine with its golden state, bit for bit: all memory, all vCPU and
    /// device state, the whole disk. Takes as long as reading all of that takes.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not paused, [`MachineError::NotCaptured`] without a
    /// golden state; otherwise what could not be read.
    pub fn differences(&self) -> Result<Differences, MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => live.differences(),
            other => Err(other.wrong("compare")),
        }
    }

    /// Compares a paused machine with its golden state, without the content of memory and disk: all
    /// vCPU and device state, and whether KVM has every memory slot and saw it written since the
    /// last reset. Takes as long as reading that state takes.
    ///
    /// # Errors
    ///
    /// As [`Machine::differences`].
    pub fn state_differences(&self) -> Result<Differences, MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => live.state_differences(),
            other => Err(other.wrong("compare")),
        }
    }

    /// Takes every vCPU out of the guest. On return no guest code runs and no device works.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not running, [`MachineError::VcpuStuck`] when a vCPU
    /// does not leave the guest.
    pub fn pause(&self) -> Result<(), MachineError> {
        self.change("pause", |phase| match phase {
            Phase::Running(live) => match live.park() {
                Ok(()) => {
                    // Host threads must not reach guest memory either.
                    live.core.devices.quiesce();
                    (Phase::Paused(live), Ok(()))
                }
                // Those that did stop would wait for ever: the machine runs, or is shut down.
                Err(e) => {
                    live.run();
                    (Phase::Running(live), Err(e))
                }
            },
            other => {
                let error = other.wrong("pause");
                (other, Err(error))
            }
        })
    }

    /// Lets the vCPUs run again.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not paused.
    pub fn resume(&self) -> Result<(), MachineError> {
        self.change("resume", |phase| match phase {
            Phase::Paused(live) => {
                live.core.devices.resume();
                live.run();
                (Phase::Running(live), Ok(()))
            }
            other => {
                let error = other.wrong("resume");
                (other, Err(error))
            }
        })
    }

    /// What KVM says the machine is doing. A running machine is held for the few microseconds it
    /// takes to read its vCPUs.
    ///
    /// # Errors
    ///
    /// [`MachineError::VcpuStuck`] when a vCPU does not leave the guest, [`MachineError::Kvm`] when KVM does
    /// not say what one is doing.
    pub fn state(&self) -> Result<MachineState, MachineError> {
        let phase = self.lock();
        if let Some(reason) = self.stop_state.reason() {
            return Ok(MachineState::Stopped(reason));
        }
        match &*phase {
            Phase::Created(_) => Ok(MachineState::Created),
            Phase::Paused(live) => Ok(MachineState::Paused(live.vcpus()?)),
            Phase::Running(live) => {
                live.park()?;
                let vcpus = live.vcpus();
                live.run();
                // A guest may have met its end just before it was held.
                match self.stop_state.reason() {
                    Some(reason) => Ok(MachineState::Stopped(reason)),
                    None => Ok(MachineState::Running(vcpus?)),
                }
            }
            Phase::Poisoned(_, reason) => Ok(MachineState::Poisoned(reason.clone())),
            Phase::Ended => Ok(MachineState::Stopped(StopReason::Shutdown)),
        }
    }

    /// Stops the vCPUs, closes every stream and gives back all memory. Does nothing when the
    /// machine is over already.
    pub fn shutdown(&self) {
        let mut phase = self.lock();
        self.stop_state.stop(StopReason::Shutdown);
        *phase = Phase::Ended;
        self.stop_state.close_streams();
    }

    /// Host side of the machine's vsock device.
    pub fn vsock(&self) -> &VsockHost {
        &self.vsock
    }

    /// Why the machine stopped; `None` while it has not.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stop_state.reason()
    }

    /// Waits until the machine stops. `None` when `limit` passes first.
    pub fn wait_stopped(&self, limit: Duration) -> Option<StopReason> {
        self.stop_state.wait(limit)
    }

    /// What the guest wrote to its console.
    pub fn console(&self) -> ConsoleSnapshot {
        self.console.snapshot()
    }

    /// The last byte the guest wrote to port 0x80, if it has written one.
    pub fn checkpoint(&self) -> Option<Mark> {
        self.checkpoint.last()
    }

    /// Waits until the guest has written more than `seen` bytes to port 0x80. `None` when `limit`
    /// passes first.
    pub fn wait_checkpoint(&self, seen: u64, limit: Duration) -> Option<Mark> {
        self.checkpoint.wait(seen, limit)
    }

    /// True while the machine is held by [`Machine::pause`].
    pub fn is_paused(&self) -> bool {
        matches!(&*self.lock(), Phase::Paused(_))
    }

    /// When the first vCPU was last let into the guest after it had been held; `None` before.
    pub fn entered(&self) -> Option<Instant> {
        match &*self.lock() {
            Phase::Running(live) | Phase::Paused(live) | Phase::Poisoned(live, _) => live.entered(),
            Phase::Created(_) | Phase::Ended => None,
        }
    }

    /// What each part of [`Machine::boot`] cost; `None` before.
    pub fn timings(&self) -> Option<BootTimings> {
        match &*self.lock() {
            Phase::Running(live) | Phase::Paused(live) | Phase::Poisoned(live, _) => {
                Some(live.timings())
            }
            Phase::Created(_) | Phase::Ended => None,
        }
    }

    fn change(
        &self,
        operation: &'static str,
        step: impl FnOnce(Phase) -> (Phase, Result<(), MachineError>),
    ) -> Result<(), MachineError> {
        let mut phase = self.lock();
        if self.stop_state.reason().is_some() {
            return Err(MachineError::WrongState { operation, state: "stopped" });
        }
        let (next, result) = step(std::mem::replace(&mut *phase, Phase::Ended));
        *phase = next;
        result
    }

    fn handles(&self, device: VsockDevice) -> HostHandles<'_> {
        HostHandles {
            vsock: device,
            console: self.console.clone(),
            checkpoint: self.checkpoint.clone(),
            stop_state: &self.stop_state,
        }
    }

    fn never_started(&self, error: &MachineError) {
        self.stop_state.stop(StopReason::BootFailed(error.to_string()));
        self.stop_state.close_streams();
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Phase {
    fn wrong(&self, operation: &'static str) -> MachineError {
        let state = match self {
            Self::Created(_) => "not booted",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Poisoned(..) => "poisoned by a failed reset",
            Self::Ended => "stopped",
        };
        MachineError::WrongState { operation, state }
    }
}

#[cfg(test)]
mod tests;
