//! What a reset did, and where its time went.

use std::time::Duration;

use crate::snapshot::Strategy;

/// Time that each step of a reset took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResetParts {
    /// From the call to the moment at which no vCPU is in the guest and the devices hold still. For
    /// a paused machine that is the way to the vCPU's thread.
    pub stop: Duration,
    /// Reading KVM's dirty log and uniting it with the devices' record.
    pub collect: Duration,
    /// Restoring the content of dirty pages.
    pub copy: Duration,
    /// Restoring device registers, queue positions and connections.
    pub devices: Duration,
    /// Dropping the disk's overlay.
    pub disk: Duration,
    /// Restoring interrupt controllers, timer and kvmclock.
    pub vm: Duration,
    /// Restoring vCPUs.
    pub vcpus: Duration,
    /// Letting a machine that was running run again.
    pub resume: Duration,
}

impl ResetParts {
    /// Every step with its name, in the order of the fields.
    pub fn named(&self) -> Vec<(&'static str, Duration)> {
        let Self { stop, collect, copy, devices, disk, vm, vcpus, resume } = *self;
        vec![
            ("stop", stop),
            ("collect", collect),
            ("copy", copy),
            ("devices", devices),
            ("disk", disk),
            ("vm", vm),
            ("vcpus", vcpus),
            ("resume", resume),
        ]
    }

    /// Sum of all steps.
    pub fn total(&self) -> Duration {
        let Self { stop, collect, copy, devices, disk, vm, vcpus, resume } = *self;
        stop + collect + copy + devices + disk + vm + vcpus + resume
    }
}

/// What a reset did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResetReport {
    /// The strategy that was used.
    pub strategy: Strategy,
    /// Time that each step took.
    pub parts: ResetParts,
    /// Pages that the guest or its devices had written, and hot pages, which every reset restores
    /// ([`Golden::set_hot_pages`](crate::Golden::set_hot_pages)).
    pub dirty_pages: usize,
    /// Pages that were copied.
    pub copied_pages: usize,
    /// Pages whose private copy was dropped.
    pub dropped_pages: usize,
    /// Blocks of the disk that the guest had written, 4096 bytes each.
    pub disk_blocks: usize,
}
