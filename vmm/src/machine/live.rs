//! A machine with vCPUs: what exists between boot and shutdown.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::assembly::{self, Assembly, Outside};
use super::fate::Fate;
use super::{BootTimings, MachineConfig, MachineError, StopReason};
use crate::devices::{Bus, DeviceSet};
use crate::kvm::{CpuidTemplate, ExitOutcome, Next, Vcpu, VcpuStatus, VcpuThread, Vm, run_once};
use crate::snapshot::{Differences, Golden, Origin, ResetReport, Rewinder, Strategy};

/// How long a vCPU may take to leave the guest. Leaving takes microseconds; a host that needs
/// this long is not scheduling us.
const PARK_LIMIT: Duration = Duration::from_secs(5);

/// A running or paused machine. Fields are dropped in order: threads end before the VM goes.
pub struct Live {
    threads: Vec<VcpuThread>,
    first_run: Arc<OnceLock<Instant>>,
    started: Instant,
    timings: BootTimings,
    cpuid: Arc<CpuidTemplate>,
    origin: Origin,
    rewinder: Option<Rewinder>,
    devices: DeviceSet,
    vm: Vm,
}

impl Live {
    /// Builds a machine whose kernel is about to start.
    pub fn boot(config: &MachineConfig, outside: Outside<'_>) -> Result<Self, MachineError> {
        let started = Instant::now();
        let fate = outside.fate;
        let origin = Origin {
            memory_mib: config.memory_mib,
            kernel_sha256: config.kernel.sha256(),
            cmdline: config.cmdline.clone(),
            guest_cid: config.guest_cid,
            console_bytes: config.console_bytes,
        };
        let assembly = assembly::assemble(config, outside)?;
        Self::start(assembly, origin, fate, started)
    }

    /// Builds a machine in a golden state.
    pub fn fork(golden: &Arc<Golden>, outside: Outside<'_>) -> Result<Self, MachineError> {
        let started = Instant::now();
        let fate = outside.fate;
        let assembly = assembly::fork(golden, outside)?;
        let mut live = Self::start(assembly, golden.origin.clone(), fate, started)?;
        live.rewinder = Some(Rewinder::new(Arc::clone(golden), &live.vm));
        Ok(live)
    }

    /// Starts the threads of the vCPUs, parked.
    fn start(
        assembly: Assembly,
        origin: Origin,
        fate: &Arc<Fate>,
        started: Instant,
    ) -> Result<Self, MachineError> {
        let Assembly { vm, vcpus, devices, cpuid, reset, mut timings } = assembly;
        let first_run = Arc::new(OnceLock::new());
        let spawning = Instant::now();
        let mut threads = Vec::new();
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let step = stepper(&devices.bus, &reset, fate, &first_run);
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
        let rewinder = None;
        Ok(Self { threads, first_run, started, timings, cpuid, origin, rewinder, devices, vm })
    }

    /// Captures the machine, which must be parked with its socket device quiesced.
    pub fn capture(&mut self) -> Result<Arc<Golden>, MachineError> {
        let vcpus = self.parked_vcpus();
        let (cpuid, origin) = (Arc::clone(&self.cpuid), self.origin.clone());
        let golden = Golden::capture(&self.vm, &vcpus, &self.devices, cpuid, origin)?;
        drop(vcpus);
        let golden = Arc::new(golden);
        self.rewinder = Some(Rewinder::new(Arc::clone(&golden), &self.vm));
        Ok(golden)
    }

    /// Puts the machine back. It must be parked with its socket device quiesced.
    pub fn rewind(&mut self, strategy: Strategy) -> Result<ResetReport, MachineError> {
        let mut vcpus: Vec<_> = self.threads.iter().map(|t| t.control().vcpu()).collect();
        match &mut self.rewinder {
            Some(rewinder) => Ok(rewinder.rewind(&self.vm, &mut vcpus, &self.devices, strategy)?),
            None => Err(MachineError::NotCaptured),
        }
    }

    /// Compares the machine with its golden state. It must be parked with its socket device
    /// quiesced.
    pub fn differences(&self) -> Result<Differences, MachineError> {
        let rewinder = self.rewinder.as_ref().ok_or(MachineError::NotCaptured)?;
        let mut vcpus = self.parked_vcpus();
        let put_back = rewinder.put_back_between();
        Ok(Differences::between(rewinder.golden(), &self.vm, &mut vcpus, &self.devices, put_back)?)
    }

    /// What the machine can be put back to.
    pub fn golden(&self) -> Option<&Arc<Golden>> {
        self.rewinder.as_ref().map(Rewinder::golden)
    }

    #[cfg(test)]
    pub fn rewinder(&mut self) -> Option<&mut Rewinder> {
        self.rewinder.as_mut()
    }

    #[cfg(test)]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    #[cfg(test)]
    pub fn ram(&self) -> &Arc<crate::memory::GuestRam> {
        self.vm.ram()
    }

    #[cfg(test)]
    pub fn devices(&self) -> &DeviceSet {
        &self.devices
    }

    fn parked_vcpus(&self) -> Vec<MutexGuard<'_, Vcpu>> {
        self.threads.iter().map(|thread| thread.control().vcpu()).collect()
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

    /// When the first vCPU was last let run.
    pub fn entered(&self) -> Option<Instant> {
        self.threads.first().and_then(|thread| thread.control().entered())
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
