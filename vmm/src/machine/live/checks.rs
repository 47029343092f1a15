//! Checks of a parked machine.

use vm_memory::{Bytes, GuestAddress};

use super::Live;
use crate::integrity::{Finding, FindingSource, IntegrityPlan, IntegrityReport, Place, Tamper};
use crate::machine::MachineError;
use crate::snapshot::Difference;

impl Live {
    pub fn check_before_reset(&self) -> Result<Vec<Finding>, MachineError> {
        self.golden().ok_or(MachineError::NotCaptured).map(|_| Vec::new())
    }

    pub fn check_after_reset(&self, _: &IntegrityPlan) -> Result<IntegrityReport, MachineError> {
        let golden = self.golden().ok_or(MachineError::NotCaptured)?;
        let findings = self.differences()?.0.iter().map(finding).collect();
        let failed =
            |e: crate::DiskError| MachineError::Device { device: "disk", reason: e.to_string() };
        Ok(IntegrityReport {
            findings,
            disk_root: golden.disk_root().map_err(failed)?,
            blocks: golden.disk_blocks(),
            pages: golden.memory_pages(),
            ..IntegrityReport::default()
        })
    }

    pub fn scrub(&self, plan: &IntegrityPlan) -> Result<IntegrityReport, MachineError> {
        self.check_after_reset(plan)
    }

    pub fn read_memory(&self, address: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        self.core
            .vm
            .ram()
            .read_slice(bytes, GuestAddress(address))
            .map_err(|e| MachineError::Device { device: "memory", reason: e.to_string() })
    }

    pub fn read_disk(&self, offset: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        let refused = |reason: &str| MachineError::Device { device: "disk", reason: reason.into() };
        let block = self.core.devices.block().ok_or_else(|| refused("there is none"))?;
        let end = offset.saturating_add(bytes.len() as u64);
        let found = block.overlay().read(offset..end).ok_or_else(|| refused("out of range"))?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    pub fn dirty_blocks(&self) -> Vec<u64> {
        let block = self.core.devices.block();
        block.map_or_else(Vec::new, |b| b.overlay().dirty_blocks().map(|n| n as u64).collect())
    }

    pub fn tamper(&self, tamper: Tamper) -> Result<(), MachineError> {
        let reason = format!("{tamper:?} is not there yet");
        Err(MachineError::Device { device: "tamper", reason })
    }
}

fn finding(difference: &Difference) -> Finding {
    let (source, place) = match difference {
        Difference::Memory { start, .. } => {
            (FindingSource::Memory, Place::Page { address: *start })
        }
        Difference::Disk { at } => (FindingSource::Disk, Place::Block(at / 4096)),
        other => (FindingSource::Vmm, Place::State(other.to_string())),
    };
    Finding { source, place, was: "golden".into(), is: "another".into() }
}
