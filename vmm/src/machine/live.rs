//! A machine with vCPUs: what exists between boot and shutdown.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::assembly::{self, Assembly};
use super::fate::Fate;
use super::{BootTimings, MachineConfig, MachineError, StopReason};
use crate::devices::vsock::VsockDevice;
use crate::devices::{Bus, Console};
use crate::kvm::{ExitOutcome, Next, Vcpu, VcpuStatus, VcpuThread, Vm, run_once};

/// How long a vCPU may take to leave the guest. Leaving takes microseconds; a host that needs
/// this long is not scheduling us.
const PARK_LIMIT: Duration = Duration::from_secs(5);

/// A running or paused machine. Fields are dropped in order: threads end before the VM goes.
pub struct Live {
    threads: Vec<VcpuThread>,
    first_run: Arc<OnceLock<Instant>>,
    started: Instant,
    timings: BootTimings,
    _bus: Arc<Bus>,
    _vm: Vm,
}

impl Live {
    /// Builds the machine and lets it run.
    pub fn start(
        config: &MachineConfig,
        vsock: VsockDevice,
        console: Console,
        fate: &Arc<Fate>,
    ) -> Result<Self, MachineError> {
        let started = Instant::now();
        let Assembly { vm, vcpus, bus, reset, mut timings } =
            assembly::assemble(config, vsock, console, fate)?;
        let first_run = Arc::new(OnceLock::new());
        let spawning = Instant::now();
        let mut threads = Vec::new();
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let step = stepper(&bus, &reset, fate, &first_run);
            let at_end = {
                let fate = Arc::clone(fate);
                move || fate.settle()
            };
            threads.push(VcpuThread::spawn(
                format!("vcpu-{index}"),
                crate::kvm::VcpuControl::new(vcpu),
                step,
                at_end,
            )?);
        }
        fate.set_vcpus(threads.iter().map(|thread| Arc::clone(thread.control())).collect());
        timings.vcpus += spawning.elapsed();
        let live = Self { threads, first_run, started, timings, _bus: bus, _vm: vm };
        live.run();
        Ok(live)
    }

    /// Lets every vCPU run.
    pub fn run(&self) {
        for thread in &self.threads {
            thread.control().run();
        }
    }

    /// Takes every vCPU out of the guest.
    pub fn park(&self) -> Result<(), MachineError> {
        for thread in &self.threads {
            thread.control().park();
        }
        let deadline = Instant::now() + PARK_LIMIT;
        for (index, thread) in self.threads.iter().enumerate() {
            if !thread.control().wait_parked(deadline) {
                return Err(MachineError::VcpuStuck { index, limit: PARK_LIMIT });
            }
        }
        Ok(())
    }

    /// Reads every vCPU from KVM. They must be parked.
    pub fn vcpus(&self) -> Result<Vec<VcpuStatus>, MachineError> {
        self.threads
            .iter()
            .map(|thread| thread.control().vcpu().status().map_err(MachineError::from))
            .collect()
    }

    /// What the boot cost.
    pub fn timings(&self) -> BootTimings {
        let first_run =
            self.first_run.get().map(|at| at.duration_since(self.started)).unwrap_or_default();
        BootTimings { first_run, ..self.timings }
    }
}

fn stepper(
    bus: &Arc<Bus>,
    reset: &Arc<AtomicBool>,
    fate: &Arc<Fate>,
    first_run: &Arc<OnceLock<Instant>>,
) -> impl FnMut(&mut Vcpu) -> Next + Send + use<> {
    let (bus, reset, fate) = (Arc::clone(bus), Arc::clone(reset), Arc::clone(fate));
    let mut first_run = Some(Arc::clone(first_run));
    move |vcpu| {
        if let Some(at) = first_run.take() {
            at.get_or_init(Instant::now);
        }
        match run_once(vcpu, &bus, &reset) {
            ExitOutcome::Continue => Next::Enter,
            ExitOutcome::Kicked => Next::Kicked,
            ExitOutcome::GuestReset => {
                fate.guest_reset();
                Next::Stop
            }
            ExitOutcome::TripleFault => {
                fate.triple_fault();
                Next::Stop
            }
            ExitOutcome::Error(reason) => {
                fate.stop(StopReason::VcpuError(reason));
                Next::Stop
            }
        }
    }
}
