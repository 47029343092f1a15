//! One reset.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use thiserror::Error;
#[cfg(test)]
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::Golden;
use super::pages::{Harvest, Run, Wanted};
use super::strategy::Strategy;
use crate::arch::{RestoreKind, host_tsc};
use crate::devices::{DeviceSet, DeviceStateError};
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::memory::MemoryError;

/// Why a machine could not be captured or put back.
#[derive(Debug, Error)]
pub enum ResetError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Dirty pages could not be put back.
    #[error("cannot put back dirty pages: {0}")]
    Pages(#[source] std::io::Error),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceStateError),
    /// The golden state belongs to another kind of machine.
    #[error("the golden state has {golden} vCPUs, the machine {machine}")]
    Vcpus {
        /// vCPUs in the golden state.
        golden: usize,
        /// vCPUs of the machine.
        machine: usize,
    },
}

/// What each part of a reset cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResetParts {
    /// Taking the vCPUs out of the guest and holding the devices; nothing for a paused machine.
    pub stop: Duration,
    /// Reading the dirty log and uniting it with the devices' record.
    pub harvest: Duration,
    /// Giving dirty pages their content back.
    pub copy: Duration,
    /// Device state, connections and the disk's overlay.
    pub devices: Duration,
    /// Interrupt controllers, timers, clock and vCPUs.
    pub vcpus: Duration,
    /// Letting a machine that was running run again.
    pub resume: Duration,
}

impl ResetParts {
    /// All parts together.
    pub fn total(&self) -> Duration {
        self.stop + self.harvest + self.copy + self.devices + self.vcpus + self.resume
    }
}

/// How a reset went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetReport {
    /// The strategy that was used.
    pub strategy: Strategy,
    /// What each part cost.
    pub parts: ResetParts,
    /// Pages the guest or its devices had written, and those that are put back every time
    /// ([`Golden::expect_writes`]).
    pub dirty_pages: usize,
    /// Pages that were copied.
    pub copied_pages: usize,
    /// Pages whose private copy was dropped.
    pub dropped_pages: usize,
    /// Disk blocks the guest had written.
    pub disk_blocks: usize,
}

/// Puts one machine back, again and again.
pub struct Rewinder {
    golden: Arc<Golden>,
    harvest: Harvest,
    /// The clocks went back to golden time after the first moment and before the second.
    put_back_between: Option<(Instant, Instant)>,
    #[cfg(test)]
    pub sabotage: Option<Sabotage>,
}

/// Ways to break a reset on purpose, so that tests can see the oracle notice.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The first dirty page stays as it is.
    SkipPage,
    /// Device state stays as it is.
    SkipDevices,
    /// The disk's overlay stays as it is.
    SkipDisk,
    /// Interrupt controllers stay as they are.
    SkipVm,
    /// vCPUs stay as they are.
    SkipVcpus,
    /// The step after the pages fails.
    Fail,
    /// The thread has to wait for a processor between the clock and the vCPUs.
    Dawdle,
}

impl Rewinder {
    /// For the machine with this VM, which must run on top of `golden`.
    pub fn new(golden: Arc<Golden>, vm: &Vm) -> Self {
        Self {
            golden,
            harvest: Harvest::new(vm),
            put_back_between: None,
            #[cfg(test)]
            sabotage: None,
        }
    }

    #[cfg(test)]
    pub fn forget_when_read(&mut self) {
        self.harvest.forget_when_read();
    }

    /// Between which two moments clocks last went back to golden time; `None` before a reset.
    pub fn put_back_between(&self) -> Option<(Instant, Instant)> {
        self.put_back_between
    }

    /// The pages written since the last reset, but for those that stay writable. The next one puts
    /// them back too. Asks KVM for the log of every memory slot, and fails where one is missing. No
    /// vCPU and no device may run.
    pub fn written_since(
        &mut self,
        vm: &Vm,
        vcpus: &mut [MutexGuard<'_, Vcpu>],
    ) -> Result<&[Run], ResetError> {
        self.harvest.gather(vm, vcpus, self.golden.habit(), Wanted::Fresh)?;
        Ok(self.harvest.runs())
    }

    /// The pages that the last reset put back. Pages may come twice after a reset that failed.
    pub fn restored(&self) -> &[Run] {
        self.harvest.restored()
    }

    /// What it goes back to.
    pub fn golden(&self) -> &Arc<Golden> {
        &self.golden
    }

    /// Puts everything back. No vCPU may run and the socket device must be quiesced. After an
    /// error the machine is in no known state, and only another call can bring it back.
    pub fn rewind(
        &mut self,
        vm: &Vm,
        vcpus: &mut [MutexGuard<'_, Vcpu>],
        devices: &DeviceSet,
        strategy: Strategy,
    ) -> Result<ResetReport, ResetError> {
        let golden = Arc::clone(&self.golden);
        if golden.vcpus.len() != vcpus.len() {
            return Err(ResetError::Vcpus { golden: golden.vcpus.len(), machine: vcpus.len() });
        }
        let mut parts = ResetParts::default();
        let mut lap = Lap::start();

        self.harvest.gather(vm, vcpus, golden.habit(), Wanted::All)?;
        let dirty_pages = self.harvest.pages();
        parts.harvest = lap.next();

        #[cfg(test)]
        let spared = (self.sabotage == Some(Sabotage::SkipPage)).then(|| self.first_page(vm));
        let done = strategy
            .put_back(self.harvest.runs(), vm.ram(), &golden.memory)
            .map_err(ResetError::Pages)?;
        #[cfg(test)]
        if let Some((at, content)) = spared {
            vm_memory::Bytes::write_slice(vm.ram().as_ref(), &content, at)
                .map_err(|e| ResetError::Pages(std::io::Error::other(e)))?;
            vm.ram().iter().for_each(|region| region.bitmap().map().clear());
        }
        parts.copy = lap.next();

        #[cfg(test)]
        if self.sabotage == Some(Sabotage::Fail) {
            return Err(ResetError::Pages(std::io::Error::other("sabotage")));
        }
        if self.does("devices") {
            devices.restore(&golden.devices)?;
        }
        let disk_blocks = if self.does("disk") { devices.discard_disk_writes()? } else { 0 };
        parts.devices = lap.next();

        // kvmclock goes back with the machine, counters with the vCPUs; between the two, this thread
        // may have to wait for a processor.
        let clocks = Instant::now();
        if self.does("vm") {
            vm.restore(&golden.vm)?;
        }
        #[cfg(test)]
        if self.sabotage == Some(Sabotage::Dawdle) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.does("vcpus") {
            let kind = if vcpus.len() == 1 { RestoreKind::Only } else { RestoreKind::OneOfSeveral };
            let now = host_tsc();
            for (vcpu, image) in vcpus.iter_mut().zip(&golden.vcpus) {
                vcpu.restore(image, now, kind)?;
            }
            self.put_back_between = Some((clocks, Instant::now()));
        }
        parts.vcpus = lap.next();

        self.harvest.commit();
        Ok(ResetReport {
            strategy,
            parts,
            dirty_pages,
            copied_pages: done.copied,
            dropped_pages: done.dropped,
            disk_blocks,
        })
    }

    /// Where the first dirty page lies, and its content.
    #[cfg(test)]
    fn first_page(&self, vm: &Vm) -> (vm_memory::GuestAddress, Vec<u8>) {
        let run = self.harvest.runs()[0];
        let start = self.golden.memory.regions()[run.region].start + run.bytes().start as u64;
        let mut content = vec![0; crate::memory::PAGE_BYTES];
        let at = vm_memory::GuestAddress(start);
        vm_memory::Bytes::read_slice(vm.ram().as_ref(), &mut content, at).unwrap();
        (at, content)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests leave out parts")]
    fn does(&self, _: &str) -> bool {
        true
    }

    #[cfg(test)]
    fn does(&self, part: &str) -> bool {
        !matches!(
            (self.sabotage, part),
            (Some(Sabotage::SkipDevices), "devices")
                | (Some(Sabotage::SkipDisk), "disk")
                | (Some(Sabotage::SkipVm), "vm")
                | (Some(Sabotage::SkipVcpus), "vcpus")
        )
    }
}

/// A stopwatch.
struct Lap(Instant);

impl Lap {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start or the last call.
    fn next(&mut self) -> Duration {
        let now = Instant::now();
        let took = now - self.0;
        self.0 = now;
        took
    }
}
