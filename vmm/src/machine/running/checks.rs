//! Checks of a machine, most of them of one that is parked.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::{MachineCore, PARK_LIMIT, RunningMachine};
use crate::arch::host_tsc;
use crate::elapsed::ResetWindow;
use crate::integrity::{
    Checker, Finding, FindingSource, IntegrityPlan, IntegrityReport, Location, MemoryFound,
};
use crate::kvm::{CallError, VcpuCall, VcpuControl};
use crate::machine::MachineError;
use crate::memory::PAGE_BYTES;
use crate::snapshot::registers::{self, Register};
use crate::snapshot::reset::ResetRequest;
use crate::snapshot::state::{self, StateMismatch, VcpuReport};
use crate::snapshot::{Golden, PageRun, ResetError, ResetReport, Strategy};

impl RunningMachine {
    /// See [`Machine::check_before_reset`](crate::Machine::check_before_reset).
    pub fn check_before_reset(&self) -> Result<Vec<Finding>, MachineError> {
        self.golden().ok_or(MachineError::NotCaptured)?;
        let Some(mut block) = self.core.devices.block() else { return Ok(Vec::new()) };
        self.core.checker().before_discard(block.overlay_mut()).map_err(unreadable("the disk"))
    }

    /// See [`Machine::check_after_reset`](crate::Machine::check_after_reset). State is read on the
    /// threads of the vCPUs, where KVM answers without waiting for other processors, while this one
    /// reads memory and disk.
    pub fn check_after_reset(&self, plan: &IntegrityPlan) -> Result<IntegrityReport, MachineError> {
        let (golden, window) = self.golden_and_when()?;
        let Some((first, others)) = self.core.vcpus.split_first() else {
            return Err(MachineError::NotCaptured);
        };
        let restored = self.restored()?;
        let others = read(others, 1, &golden, window)?;
        let call = {
            let (core, golden) = (Arc::clone(&self.core), Arc::clone(&golden));
            first.call(move || {
                let begun = Instant::now();
                let found = core.check_state(&golden, window, others);
                (found, begun.elapsed())
            })
        };
        let content = self.core.check_content(&golden, &restored, plan, plan.memory_steps());
        let (state, took) = wait(call, 0)?;
        let mut report = content?;
        report.took.state = took;
        state?.add_to(&mut report);
        Ok(report)
    }

    /// A reset of a parked machine and the check after it, without a pause between the two: the
    /// vCPU's thread goes on with the state that it has just restored.
    pub fn reset_and_check(
        &self,
        strategy: Strategy,
        plan: &IntegrityPlan,
    ) -> (Result<ResetReport, MachineError>, Result<IntegrityReport, MachineError>) {
        let [only] = self.core.vcpus.as_slice() else {
            let reset = self.reset(strategy, false, false).map(|(report, _)| report);
            let check = if reset.is_ok() { self.check_after_reset(plan) } else { Err(unchecked()) };
            return (reset, check);
        };
        let (reset_done, reset) = mpsc::sync_channel(1);
        let (state_read, state) = mpsc::sync_channel(1);
        let core = Arc::clone(&self.core);
        // The sample is read by the vCPU's thread while the caller wakes up. With a deep plan the
        // caller reads all of memory.
        let sample = if plan.deep { 0 } else { plan.memory_steps() };
        only.post(Box::new(move || {
            let asked = Instant::now();
            let report = core.reset(ResetRequest { strategy, asked, resumes: false });
            let worked = report.is_ok();
            let checker = core.checker();
            // No caller waits any more when the machine is going down.
            let _ = reset_done.send(report);
            if worked {
                let sample = core.sample_memory(checker, sample);
                let begun = Instant::now();
                let _ = state_read.send((sample, core.check_own_state(), begun.elapsed()));
            }
        }));
        let reset = wait(only.awaiting(reset), 0).and_then(|report| report);
        if reset.is_err() {
            self.core.devices.quiesce();
            return (reset, Err(unchecked()));
        }
        let check = self.golden_and_when().and_then(|(golden, _)| {
            let steps = plan.memory_steps() - sample;
            let content = self.core.check_content(&golden, &self.restored()?, plan, steps);
            let (sampled, state, took) = wait(only.awaiting(state), 0)?;
            let (mut report, (sampled, sampling)) = (content?, sampled?);
            report.pages += sampled.pages;
            let new = |finding: &Finding| report.findings.iter().all(|f| f.place != finding.place);
            let sampled: Vec<_> = sampled.findings.into_iter().filter(new).collect();
            report.findings.extend(sampled);
            report.took.memory += sampling;
            report.took.state = took;
            state?.add_to(&mut report);
            Ok(report)
        });
        (reset, check)
    }

    /// See [`Machine::scrub`](crate::Machine::scrub). The machine may be running.
    pub fn scrub(&self, plan: &IntegrityPlan) -> Result<IntegrityReport, MachineError> {
        let golden = self.golden().ok_or(MachineError::NotCaptured)?;
        let mut checker = self.core.checker();
        let page_tables = checker.reads_page_tables();
        let mut report = IntegrityReport { page_tables, ..IntegrityReport::default() };
        let begun = Instant::now();
        if let Some(mut block) = self.core.devices.block() {
            let found = checker
                .scrub_disk(block.overlay_mut(), plan.disk_steps())
                .map_err(unreadable("the disk"))?;
            (report.blocks, report.findings) = (found.blocks, found.findings);
        }
        report.took.disk = begun.elapsed();
        let begun = Instant::now();
        let ram = self.core.pristine.load(Ordering::Acquire).then(|| self.core.vm.ram().as_ref());
        let found = checker
            .scrub_memory(ram, &golden.memory, plan.memory_steps())
            .map_err(unreadable("memory"))?;
        report.pages = found.pages;
        report.findings.extend(found.findings);
        report.took.memory = begun.elapsed();
        Ok(report)
    }

    /// Copies guest memory.
    pub fn read_memory(&self, address: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        self.core
            .vm
            .ram()
            .read_slice(bytes, GuestAddress(address))
            .map_err(|e| MachineError::Unreadable { what: "memory", reason: e.to_string() })
    }

    /// Copies what the disk holds.
    pub fn read_disk(&self, offset: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        let refused =
            |reason: &str| MachineError::Unreadable { what: "the disk", reason: reason.into() };
        let block = self.core.devices.block().ok_or_else(|| refused("there is none"))?;
        let end = offset.saturating_add(bytes.len() as u64);
        let found = block.overlay().read(offset..end).ok_or_else(|| refused("it ends before"))?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    /// Numbers of the blocks that were written since the last reset.
    pub fn dirty_blocks(&self) -> Vec<u64> {
        let block = self.core.devices.block();
        block.map_or_else(Vec::new, |b| b.overlay().dirty_blocks().map(|n| n as u64).collect())
    }

    /// See [`Machine::registers`](crate::Machine::registers).
    pub fn registers(&self) -> Result<Vec<Register>, MachineError> {
        let golden = self.golden().ok_or(MachineError::NotCaptured)?;
        let now = host_tsc();
        let asked: Vec<_> = self
            .core
            .vcpus
            .iter()
            .enumerate()
            .map(|(index, control)| {
                let (vcpu, golden) = (Arc::clone(control), Arc::clone(&golden));
                let read = move || match golden.vcpus.get(index) {
                    Some(image) => registers::read(index, &mut vcpu.vcpu(), image, now),
                    None => Ok(Vec::new()),
                };
                (index, control.call(read))
            })
            .collect();
        let mut all = Vec::new();
        for (index, call) in asked {
            all.extend(wait(call, index)??);
        }
        Ok(all)
    }

    /// What the last reset restored.
    pub fn restored(&self) -> Result<Vec<PageRun>, MachineError> {
        let resetter = self.core.resetter.lock().unwrap_or_else(PoisonError::into_inner);
        let resetter = resetter.as_ref().ok_or(MachineError::NotCaptured)?;
        Ok(resetter.restored().to_vec())
    }

    /// Compares every vCPU with the golden state.
    pub fn read_vcpus(
        &self,
        golden: &Arc<Golden>,
        window: ResetWindow,
    ) -> Result<Vec<VcpuReport>, MachineError> {
        read(&self.core.vcpus, 0, golden, window)
    }

    /// Makes registers that a reset wrote take effect on a vCPU.
    #[cfg(any(test, feature = "testing"))]
    pub fn apply_staged_regs(&self, index: usize) -> Result<(), MachineError> {
        let Some(control) = self.core.vcpus.get(index) else { return Ok(()) };
        let vcpu = Arc::clone(control);
        let call = control.call(move || vcpu.vcpu().apply_staged_regs());
        Ok(wait(call, index)??)
    }

    pub fn golden_and_when(&self) -> Result<(Arc<Golden>, ResetWindow), MachineError> {
        let resetter = self.core.resetter.lock().unwrap_or_else(PoisonError::into_inner);
        let resetter = resetter.as_ref().ok_or(MachineError::NotCaptured)?;
        Ok((Arc::clone(resetter.golden()), resetter.window()))
    }
}

/// What was found in the state that KVM keeps.
struct StateFound {
    findings: Vec<Finding>,
    /// See [`IntegrityReport::residues`].
    residues: Vec<Finding>,
}

impl StateFound {
    /// Puts this before what the report has.
    fn add_to(self, report: &mut IntegrityReport) {
        report.findings.splice(0..0, self.findings);
        report.residues = self.residues;
    }
}

impl MachineCore {
    pub(in crate::machine) fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `steps` of memory, and how long that took.
    fn sample_memory(
        &self,
        mut checker: MutexGuard<'_, Checker>,
        steps: usize,
    ) -> Result<(MemoryFound, Duration), MachineError> {
        let begun = Instant::now();
        let golden = {
            let resetter = self.resetter.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(resetter.as_ref().ok_or(MachineError::NotCaptured)?.golden())
        };
        let found = checker
            .scrub_memory(Some(self.vm.ram()), &golden.memory, steps)
            .map_err(unreadable("memory"))?;
        Ok((found, begun.elapsed()))
    }

    /// Memory and disk, and the devices, which are not to wait for the disk. `steps`: of memory that
    /// was not touched.
    fn check_content(
        &self,
        golden: &Golden,
        restored: &[PageRun],
        plan: &IntegrityPlan,
        steps: usize,
    ) -> Result<IntegrityReport, MachineError> {
        let devices = state::devices(golden, &self.devices)?;
        let mut checker = self.checker();
        let page_tables = checker.reads_page_tables();
        let mut report = IntegrityReport { page_tables, ..IntegrityReport::default() };
        report.findings.extend(devices.into_iter().map(finding));
        let begun = Instant::now();
        let most = (plan.copies_at_once(), steps);
        let found = checker
            .memory(self.vm.ram(), &golden.memory, restored, most)
            .map_err(unreadable("memory"))?;
        report.pages = found.pages;
        report.findings.extend(found.findings);
        report.took.memory = begun.elapsed();

        let begun = Instant::now();
        if let Some(mut block) = self.devices.block() {
            let found = checker
                .after_discard(block.overlay_mut(), plan.disk_steps())
                .map_err(unreadable("the disk"))?;
            (report.blocks, report.disk_root) = (found.blocks, Some(found.root));
            report.findings.extend(found.findings);
        }
        report.took.disk = begun.elapsed();
        Ok(report)
    }

    /// State in KVM of a machine that has no other vCPU than the one this thread belongs to.
    fn check_own_state(&self) -> Result<StateFound, MachineError> {
        let (golden, window) = {
            let resetter = self.resetter.lock().unwrap_or_else(PoisonError::into_inner);
            let resetter = resetter.as_ref().ok_or(MachineError::NotCaptured)?;
            (Arc::clone(resetter.golden()), resetter.window())
        };
        self.check_state(&golden, window, Vec::new())
    }

    /// State in KVM, on the thread of the first vCPU; `others` is what was found on the others.
    fn check_state(
        &self,
        golden: &Golden,
        window: ResetWindow,
        others: Vec<VcpuReport>,
    ) -> Result<StateFound, MachineError> {
        let mut vcpus = self.parked();
        let mut found = Vec::with_capacity(vcpus.len());
        if let Some(first) = vcpus.first_mut() {
            found.push(state::vcpu(golden, 0, first, window)?);
        }
        found.extend(others);
        let mismatches = state::kvm(golden, &self.vm, found, window)?;
        let (residues, alarms): (Vec<_>, Vec<_>) =
            mismatches.into_iter().partition(|mismatch| mismatch.residue.is_some());
        let residues = residues.into_iter().map(finding).collect();
        let mut findings: Vec<Finding> = alarms.into_iter().map(finding).collect();
        let mut resetter = self.resetter.lock().unwrap_or_else(PoisonError::into_inner);
        let resetter = resetter.as_mut().ok_or(MachineError::NotCaptured)?;
        match resetter.written_since(&self.vm, &mut vcpus) {
            Ok([]) => {}
            Ok([first, rest @ ..]) => {
                let pages = first.count + rest.iter().map(|run| run.count).sum::<usize>();
                let region = golden.memory.regions().get(first.region);
                let start = region.map_or(0, |region| region.start);
                findings.push(Finding {
                    source: FindingSource::Memory,
                    place: Location::Page { address: start + (first.first * PAGE_BYTES) as u64 },
                    was: "not written since the reset".into(),
                    is: format!("the first of {pages} that were"),
                });
            }
            // KVM keeps a log of every slot that it has: one is missing, or no longer logged.
            Err(ResetError::Kvm(e)) => findings.push(Finding {
                source: FindingSource::Vmm,
                place: Location::State { name: "memory slots".into() },
                was: "there, and logged".into(),
                is: e.to_string(),
            }),
            Err(e) => return Err(e.into()),
        }
        Ok(StateFound { findings, residues })
    }
}

/// Compares vCPUs, of which the first one has this index, each on its own thread: registers
/// that were restored take effect, and KVM waits for every processor of the host when a vCPU
/// changes threads for that.
fn read(
    vcpus: &[Arc<VcpuControl>],
    first: usize,
    golden: &Arc<Golden>,
    window: ResetWindow,
) -> Result<Vec<VcpuReport>, MachineError> {
    let asked: Vec<_> = (first..)
        .zip(vcpus)
        .map(|(index, control)| {
            let (vcpu, golden) = (Arc::clone(control), Arc::clone(golden));
            let read = move || state::vcpu(&golden, index, &mut vcpu.vcpu(), window);
            (index, control.call(read))
        })
        .collect();
    asked.into_iter().map(|(index, call)| Ok(wait(call, index)??)).collect()
}

fn wait<T>(call: VcpuCall<T>, index: usize) -> Result<T, MachineError> {
    call.wait(PARK_LIMIT).map_err(|error| match error {
        CallError::Stuck => MachineError::VcpuStuck { index, limit: PARK_LIMIT },
        CallError::Ended => MachineError::WrongState { operation: "check", state: "stopped" },
    })
}

fn unchecked() -> MachineError {
    MachineError::WrongState { operation: "check", state: "not reset" }
}

fn unreadable(what: &'static str) -> impl Fn(std::io::Error) -> MachineError {
    move |error| MachineError::Unreadable { what, reason: error.to_string() }
}

fn finding(mismatch: StateMismatch) -> Finding {
    let StateMismatch { part, was, mut is, residue } = mismatch;
    if let Some(residue) = residue {
        is = format!("{is}: {residue}");
    }
    let place = Location::State { name: part.to_string() };
    Finding { source: FindingSource::Vmm, place, was, is }
}
