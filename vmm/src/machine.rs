//! The machine: boot, pause, resume, look at, shut down.

mod assembly;
mod config;
mod fate;
mod live;
mod status;

pub use config::{ConfigError, MachineConfig};
pub use status::{BootTimings, MachineState, StopReason};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;

use crate::boot::BootError;
use crate::devices::vsock::{VsockDevice, VsockHost};
use crate::devices::{Console, ConsoleSnapshot};
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use fate::Fate;
use live::Live;

/// Why an operation on a [`Machine`] failed.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest RAM could not be set up.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel could not be prepared.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device could not be set up.
    #[error("cannot set up {device}: {reason}")]
    Device {
        /// The device.
        device: &'static str,
        /// What failed.
        reason: String,
    },
    /// The operation does not fit the machine's state.
    #[error("cannot {operation} a machine that is {state}")]
    WrongState {
        /// What was asked.
        operation: &'static str,
        /// What the machine is.
        state: &'static str,
    },
    /// A vCPU did not leave the guest in time. The machine cannot be trusted any more: shut it
    /// down.
    #[error("vCPU {index} did not stop within {limit:?}; shut the machine down")]
    VcpuStuck {
        /// The vCPU.
        index: usize,
        /// How long it was given.
        limit: Duration,
    },
}

/// A microVM.
///
/// `create` → `boot` → (`pause` ⇄ `resume`) → `shutdown`. A guest that panics, resets itself,
/// breaks a device or a vCPU stops the machine by itself; [`Machine::stop_reason`] says why.
/// Dropping a machine shuts it down. All methods can be called from any thread.
pub struct Machine {
    phase: Mutex<Phase>,
    fate: Arc<Fate>,
    console: Console,
    vsock: VsockHost,
}

enum Phase {
    Created(Box<(MachineConfig, VsockDevice)>),
    Running(Live),
    Paused(Live),
    Ended,
}

impl Machine {
    /// Checks the configuration. Nothing runs and no memory is used yet, but
    /// [`VsockHost::listen`] works, so that a guest can be awaited before it starts.
    pub fn create(config: MachineConfig) -> Result<Self, MachineError> {
        config.check()?;
        let console = Console::new(config.console_bytes);
        let (device, vsock) = VsockDevice::new(u64::from(config.guest_cid));
        Ok(Self {
            fate: Arc::new(Fate::new(console.clone(), vsock.clone())),
            phase: Mutex::new(Phase::Created(Box::new((config, device)))),
            console,
            vsock,
        })
    }

    /// Loads the kernel and starts the vCPUs. Returns without waiting for the guest.
    ///
    /// After an error nothing is left of the machine: it is ended and can be dropped.
    pub fn boot(&self) -> Result<(), MachineError> {
        let mut phase = self.lock();
        match std::mem::replace(&mut *phase, Phase::Ended) {
            Phase::Created(parts) => {
                let (config, vsock) = *parts;
                let live = Live::start(&config, vsock, self.console.clone(), &self.fate)
                    .inspect_err(|e| {
                        self.fate.stop(StopReason::BootFailed(e.to_string()));
                        self.fate.settle();
                    })?;
                *phase = Phase::Running(live);
                Ok(())
            }
            other => {
                *phase = other;
                Err(phase.wrong("boot"))
            }
        }
    }

    /// Takes every vCPU out of the guest. On return no guest code runs and no device works.
    pub fn pause(&self) -> Result<(), MachineError> {
        self.change("pause", |phase| match phase {
            Phase::Running(live) => match live.park() {
                Ok(()) => {
                    // Host threads must not reach guest memory either.
                    self.vsock.quiesce();
                    (Phase::Paused(live), Ok(()))
                }
                Err(e) => (Phase::Running(live), Err(e)),
            },
            other => {
                let error = other.wrong("pause");
                (other, Err(error))
            }
        })
    }

    /// Lets the vCPUs run again.
    pub fn resume(&self) -> Result<(), MachineError> {
        self.change("resume", |phase| match phase {
            Phase::Paused(live) => {
                self.vsock.resume();
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
    pub fn state(&self) -> Result<MachineState, MachineError> {
        let phase = self.lock();
        if let Some(reason) = self.fate.reason() {
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
                match self.fate.reason() {
                    Some(reason) => Ok(MachineState::Stopped(reason)),
                    None => Ok(MachineState::Running(vcpus?)),
                }
            }
            Phase::Ended => Ok(MachineState::Stopped(StopReason::Shutdown)),
        }
    }

    /// Stops the vCPUs, closes every stream and gives back all memory. Does nothing when the
    /// machine is over already.
    pub fn shutdown(&self) {
        let mut phase = self.lock();
        self.fate.stop(StopReason::Shutdown);
        *phase = Phase::Ended;
        self.fate.settle();
    }

    /// Host side of the machine's vsock device.
    pub fn vsock(&self) -> &VsockHost {
        &self.vsock
    }

    /// Why the machine stopped; `None` while it has not.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.fate.reason()
    }

    /// Waits until the machine stops. `None` when `limit` passes first.
    pub fn wait_stopped(&self, limit: Duration) -> Option<StopReason> {
        self.fate.wait(limit)
    }

    /// What the guest wrote to its console.
    pub fn console(&self) -> ConsoleSnapshot {
        self.console.snapshot()
    }

    /// What each part of [`Machine::boot`] cost; `None` before.
    pub fn timings(&self) -> Option<BootTimings> {
        match &*self.lock() {
            Phase::Running(live) | Phase::Paused(live) => Some(live.timings()),
            Phase::Created(_) | Phase::Ended => None,
        }
    }

    fn change(
        &self,
        operation: &'static str,
        step: impl FnOnce(Phase) -> (Phase, Result<(), MachineError>),
    ) -> Result<(), MachineError> {
        let mut phase = self.lock();
        if self.fate.reason().is_some() {
            return Err(MachineError::WrongState { operation, state: "stopped" });
        }
        let (next, result) = step(std::mem::replace(&mut *phase, Phase::Ended));
        *phase = next;
        result
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
            Self::Ended => "stopped",
        };
        MachineError::WrongState { operation, state }
    }
}

#[cfg(test)]
mod tests;
