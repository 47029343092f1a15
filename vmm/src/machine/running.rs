//! A machine with vCPUs: what exists between boot and shutdown.

mod checks;
#[cfg(any(test, feature = "testing"))]
mod tamper;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::assembly::{self, Assembly, HostHandles};
use super::stop_state::StopState;
use super::wiring::Wiring;
use super::{BootTimings, MachineConfig, MachineError, StopReason};
use crate::arch::{CpuidTemplate, VcpuStatus};
use crate::devices::DeviceSet;
use crate::devices::block::{DiskError, DiskImage};
use crate::integrity::Checker;
use crate::kernel_call::{self, KernelCall};
use crate::kvm::{
    CallError, DirtyTracking, Ended, ExitOutcome, Next, Vcpu, VcpuControl, VcpuThread, Vm, run_once,
};
use crate::snapshot::reset::{Parts, ResetRequest};
use crate::snapshot::{Difference, Differences, Golden, Origin, ResetReport, Resetter, Strategy};

/// How long a vCPU may take to leave the guest. Leaving takes microseconds; a host that needs
/// this long is not scheduling us.
const PARK_LIMIT: Duration = Duration::from_secs(5);

/// A running or paused machine. Fields are dropped in order: threads end before the VM goes.
pub struct RunningMachine {
    threads: Vec<VcpuThread>,
    first_run: Arc<OnceLock<Instant>>,
    started: Instant,
    timings: BootTimings,
    cpuid: Arc<CpuidTemplate>,
    origin: Origin,
    /// The disk it was made with.
    disk: Option<Arc<DiskImage>>,
    pub(super) core: Arc<MachineCore>,
}

/// What a reset works on, from whichever thread.
pub(super) struct MachineCore {
    pub(super) vcpus: Vec<Arc<VcpuControl>>,
    pub(super) resetter: Mutex<Option<Resetter>>,
    checker: Mutex<Checker>,
    /// Reset, and nothing ran since.
    pristine: AtomicBool,
    pub(super) devices: DeviceSet,
    pub(super) vm: Vm,
}

impl RunningMachine {
    /// Builds a machine whose kernel is about to start.
    pub fn boot(
        config: &MachineConfig,
        tracking: DirtyTracking,
        handles: HostHandles<'_>,
    ) -> Result<Self, MachineError> {
        let started = Instant::now();
        let stop_state = handles.stop_state;
        let origin = Origin {
            memory_mib: config.memory_mib,
            kernel_sha256: config.kernel.sha256(),
            // Known when it is asked for: hashing a disk takes longer than starting a machine.
            rootfs_sha256: None,
            cmdline: config.cmdline.clone(),
            guest_cid: config.guest_cid,
            console_bytes: config.console_bytes,
        };
        let assembly = assembly::assemble(config, tracking, handles)?;
        let mut live = Self::start(assembly, origin, stop_state, started)?;
        live.disk.clone_from(&config.disk);
        Ok(live)
    }

    /// Builds a machine in a golden state.
    pub fn fork(
        golden: &Arc<Golden>,
        tracking: DirtyTracking,
        handles: HostHandles<'_>,
    ) -> Result<Self, MachineError> {
        let started = Instant::now();
        let stop_state = handles.stop_state;
        let assembly = assembly::fork(golden, tracking, handles)?;
        let live = Self::start(assembly, golden.origin.clone(), stop_state, started)?;
        live.core.run_on_top_of(golden);
        Ok(live)
    }

    /// Starts the threads of the vCPUs, parked.
    fn start(
        assembly: Assembly,
        origin: Origin,
        stop_state: &Arc<StopState>,
        started: Instant,
    ) -> Result<Self, MachineError> {
        let Assembly { vm, vcpus, devices, cpuid, reset, mut timings } = assembly;
        let first_run = Arc::new(OnceLock::new());
        let spawning = Instant::now();
        let mut threads = Vec::new();
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let wiring = Wiring { bus: Arc::clone(&devices.bus), reset: Arc::clone(&reset) };
            let step = stepper(wiring, stop_state, &first_run);
            let at_end = {
                let stop_state = Arc::clone(stop_state);
                move |ended| {
                    let reason = match ended {
                        Ended::Asked => None,
                        Ended::Panicked => Some("its thread panicked"),
                        Ended::CannotBeStopped => Some("the host lets no signal stop its thread"),
                    };
                    if let Some(reason) = reason {
                        stop_state.stop(StopReason::VcpuError(reason.to_owned()));
                    }
                    stop_state.close_streams();
                }
            };
            threads.push(VcpuThread::spawn(
                format!("vcpu-{index}"),
                VcpuControl::new(vcpu),
                step,
                at_end,
            )?);
        }
        let vcpus: Vec<_> = threads.iter().map(|thread| Arc::clone(thread.control())).collect();
        stop_state.set_vcpus(&vcpus);
        timings.vcpus += spawning.elapsed();
        let core = Arc::new(MachineCore {
            vcpus,
            resetter: Mutex::new(None),
            checker: Mutex::new(Checker::new()),
            pristine: AtomicBool::new(false),
            devices,
            vm,
        });
        Ok(Self { threads, first_run, started, timings, cpuid, origin, disk: None, core })
    }

    /// Captures the machine, which must be parked with its socket device quiesced.
    pub fn capture(&self) -> Result<Arc<Golden>, MachineError> {
        let (cpuid, mut origin) = (Arc::clone(&self.cpuid), self.origin.clone());
        if let Some(disk) = &self.disk {
            let failed =
                |e: DiskError| MachineError::Device { device: "disk", reason: e.to_string() };
            origin.rootfs_sha256 = Some(disk.sha256().map_err(failed)?);
        }
        let vcpus = self.core.parked();
        let golden = Golden::capture(&self.core.vm, &vcpus, &self.core.devices, cpuid, origin)?;
        drop(vcpus);
        let golden = Arc::new(golden);
        self.core.run_on_top_of(&golden);
        Ok(golden)
    }

    /// Resets the machine on the thread of its first vCPU. With `resumes` it is running now and runs
    /// on afterwards; otherwise it is parked and stays so. With `records` it also returns the calls
    /// of the kernel.
    pub fn reset(
        &self,
        strategy: Strategy,
        resumes: bool,
        records: bool,
    ) -> Result<(ResetReport, Vec<KernelCall>), MachineError> {
        let request = ResetRequest { strategy, asked: Instant::now(), resumes };
        let Some((first, others)) = self.core.vcpus.split_first() else {
            return Err(MachineError::NotCaptured);
        };
        if resumes && let Err(e) = park(others, 1) {
            // Nothing of a machine that cannot be stopped may go on.
            first.park();
            self.core.devices.quiesce();
            return Err(e);
        }
        let core = Arc::clone(&self.core);
        let call = first.call(move || {
            if records {
                let (report, calls) = kernel_call::recorded(|| core.reset(request));
                Ok((report?, calls))
            } else {
                Ok((core.reset(request)?, Vec::new()))
            }
        });
        match call.wait(PARK_LIMIT) {
            Ok(outcome) => outcome,
            Err(CallError::Stuck) => {
                self.core.devices.quiesce();
                Err(MachineError::VcpuStuck { index: 0, limit: PARK_LIMIT })
            }
            Err(CallError::Ended) => {
                Err(MachineError::WrongState { operation: "reset", state: "stopped" })
            }
        }
    }

    /// Compares the machine with its golden state. It must be parked with its socket device
    /// quiesced.
    pub fn differences(&self) -> Result<Differences, MachineError> {
        let (golden, window) = self.golden_and_when()?;
        let vcpus = self.read_vcpus(&golden, window)?;
        let MachineCore { devices, vm, .. } = &*self.core;
        Ok(Differences::between(&golden, vm, vcpus, devices, window)?)
    }

    /// Compares what KVM and the devices say with the golden state. It must be parked with its
    /// socket device quiesced.
    pub fn state_differences(&self) -> Result<Differences, MachineError> {
        let (golden, window) = self.golden_and_when()?;
        let vcpus = self.read_vcpus(&golden, window)?;
        let MachineCore { resetter, devices, vm, .. } = &*self.core;
        let mut found = Differences::of_state(&golden, vm, vcpus, devices, window)?;
        let mut resetter = resetter.lock().unwrap_or_else(PoisonError::into_inner);
        let resetter = resetter.as_mut().ok_or(MachineError::NotCaptured)?;
        let written = resetter.written_since(vm, &mut self.core.parked())?;
        match written.iter().map(|run| run.count).sum() {
            0 => {}
            pages => found.0.push(Difference::Written { pages }),
        }
        Ok(found)
    }

    /// SHA-256 of what the guest would read from its disk.
    pub fn disk_sha256(&self) -> Option<[u8; 32]> {
        self.core.devices.block().map(|block| block.overlay().sha256())
    }

    /// Writes to the disk as its device does.
    pub fn write_disk(&self, offset: u64, bytes: &[u8]) -> Result<(), MachineError> {
        let refused = |reason| MachineError::Unreadable { what: "the disk", reason };
        let block = self.core.devices.block();
        let mut block = block.ok_or_else(|| refused("there is none".into()))?;
        block.overlay_mut().write(offset, bytes).map_err(|e| refused(e.to_string()))
    }

    /// The state that a reset goes back to.
    pub fn golden(&self) -> Option<Arc<Golden>> {
        let resetter = self.core.resetter.lock().unwrap_or_else(PoisonError::into_inner);
        resetter.as_ref().map(|resetter| Arc::clone(resetter.golden()))
    }

    /// Lets every vCPU run.
    pub fn run(&self) {
        self.core.pristine.store(false, Ordering::Release);
        for thread in &self.threads {
            thread.control().run();
        }
    }

    /// Takes every vCPU out of the guest.
    pub fn park(&self) -> Result<(), MachineError> {
        park(&self.core.vcpus, 0)
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

impl MachineCore {
    fn run_on_top_of(&self, golden: &Arc<Golden>) {
        let resetter = Resetter::new(Arc::clone(golden), &self.vm);
        *self.resetter.lock().unwrap_or_else(PoisonError::into_inner) = Some(resetter);
    }

    fn parked(&self) -> Vec<MutexGuard<'_, Vcpu>> {
        self.vcpus.iter().map(|control| control.vcpu()).collect()
    }

    fn reset(&self, request: ResetRequest) -> Result<ResetReport, MachineError> {
        let mut resetter = self.resetter.lock().unwrap_or_else(PoisonError::into_inner);
        let resetter = resetter.as_mut().ok_or(MachineError::NotCaptured)?;
        self.pristine.store(false, Ordering::Release);
        let parts = Parts { vm: &self.vm, threads: &self.vcpus, devices: &self.devices };
        let report = resetter.reset(parts, request)?;
        self.pristine.store(!request.resumes, Ordering::Release);
        Ok(report)
    }
}

/// Takes vCPUs out of the guest; `first` is the index of the first one.
fn park(vcpus: &[Arc<VcpuControl>], first: usize) -> Result<(), MachineError> {
    for vcpu in vcpus {
        vcpu.park();
    }
    let deadline = Instant::now() + PARK_LIMIT;
    for (index, vcpu) in vcpus.iter().enumerate() {
        if !vcpu.wait_parked(deadline) {
            return Err(MachineError::VcpuStuck { index: first + index, limit: PARK_LIMIT });
        }
    }
    Ok(())
}

fn stepper(
    wiring: Wiring,
    stop_state: &Arc<StopState>,
    first_run: &Arc<OnceLock<Instant>>,
) -> impl FnMut(&mut Vcpu) -> Next + Send + use<> {
    let stop_state = Arc::clone(stop_state);
    let mut first_run = Some(Arc::clone(first_run));
    move |vcpu| {
        if let Some(at) = first_run.take() {
            at.get_or_init(Instant::now);
        }
        if let Err(error) = vcpu.separate_commands() {
            stop_state.stop(StopReason::VcpuError(error.to_string()));
            return Next::Stop;
        }
        match run_once(vcpu, &wiring) {
            ExitOutcome::Continue => Next::Enter,
            ExitOutcome::Kicked => Next::Kicked,
            ExitOutcome::GuestReset => {
                stop_state.guest_reset();
                Next::Stop
            }
            ExitOutcome::TripleFault => {
                stop_state.triple_fault();
                Next::Stop
            }
            ExitOutcome::Error(reason) => {
                stop_state.stop(StopReason::VcpuError(reason));
                Next::Stop
            }
        }
    }
}
