//! What the steps of a reset work on.

use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::pages::PagesRestored;
use crate::devices::DeviceSet;
use crate::elapsed::ResetWindow;
use crate::kvm::{Vcpu, VcpuControl, Vm};
use crate::snapshot::dirty_pages::DirtyPages;
use crate::snapshot::{Golden, Strategy};

/// The parts of the machine that is reset.
#[derive(Clone, Copy)]
pub struct Parts<'m> {
    /// The VM.
    pub vm: &'m Vm,
    /// The threads of the vCPUs, in order. Each is parked, or runs the reset.
    pub threads: &'m [Arc<VcpuControl>],
    /// The devices.
    pub devices: &'m DeviceSet,
}

/// One reset under way: what it works on, and what its steps leave for later ones.
pub struct Context<'m> {
    /// The state that the machine goes back to.
    pub golden: &'m Golden,
    /// The machine.
    pub machine: Parts<'m>,
    /// How pages get their content back.
    pub strategy: Strategy,
    /// True when the vCPUs run again afterwards.
    pub resumes: bool,
    /// When the current step began.
    pub step_began: Instant,
    /// The vCPUs, locked from the step `stop` to the step `resume`.
    pub vcpus: Vec<MutexGuard<'m, Vcpu>>,
    /// The pages to restore.
    pub dirty: &'m mut DirtyPages,
    /// Number of pages to restore.
    pub dirty_pages: usize,
    /// What was done with those pages.
    pub pages: PagesRestored,
    /// Number of blocks in the overlay that was dropped.
    pub disk_blocks: usize,
    /// When kvmclock began to go back.
    pub clock_began: Option<Instant>,
    /// When all clocks went back.
    pub window: ResetWindow,
}
