//! The loop that runs and times the steps of a reset.

use std::borrow::Cow;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::context::{Context, Parts};
use super::pages::PagesRestored;
use super::report::{ResetParts, ResetReport};
use super::steps::Step;
use crate::elapsed::ResetWindow;
use crate::kvm::{Vcpu, Vm};
use crate::snapshot::dirty_pages::{DirtyPages, DirtyScope};
use crate::snapshot::{Golden, PageRun, ResetError, Strategy};

/// How a machine is to be reset.
#[derive(Debug, Clone, Copy)]
pub struct ResetRequest {
    /// How dirty pages get their content back.
    pub strategy: Strategy,
    /// When the caller asked for the reset: time counts from here.
    pub asked: Instant,
    /// True when the vCPUs run again afterwards.
    pub resumes: bool,
}

/// Resets one machine, again and again.
pub struct Resetter {
    golden: Arc<Golden>,
    /// What a reset does, in this order.
    pub steps: Cow<'static, [Step]>,
    /// Pages that the machine has written.
    pub dirty: DirtyPages,
    window: ResetWindow,
}

impl Resetter {
    /// Prepares resets of the machine with this VM, whose memory must be mapped over `golden`.
    pub fn new(golden: Arc<Golden>, vm: &Vm) -> Self {
        let steps = Cow::Borrowed(Step::ALL);
        Self { golden, steps, dirty: DirtyPages::new(vm), window: None }
    }

    /// When clocks last went back to golden time; `None` before the first reset.
    pub fn window(&self) -> ResetWindow {
        self.window
    }

    /// Returns the pages written since the last reset, without hot pages, of which KVM does not
    /// tell when they were written. The next reset restores them too. No vCPU and no device may run.
    ///
    /// # Errors
    ///
    /// A memory slot is missing, or KVM does not log its writes.
    pub fn written_since(
        &mut self,
        vm: &Vm,
        vcpus: &mut [MutexGuard<'_, Vcpu>],
    ) -> Result<&[PageRun], ResetError> {
        self.dirty.collect(vm, vcpus, self.golden.hot_pages(), DirtyScope::SinceReset)?;
        Ok(self.dirty.runs())
    }

    /// Returns the pages that the last reset restored. A page may be in it twice after a reset that
    /// failed.
    pub fn restored(&self) -> &[PageRun] {
        self.dirty.restored()
    }

    /// The state that the machine goes back to.
    pub fn golden(&self) -> &Arc<Golden> {
        &self.golden
    }

    /// Runs every step. The vCPUs must be out of the guest. After an error the machine is in no
    /// known state, and only another call can bring it back.
    ///
    /// # Errors
    ///
    /// The first step that failed says why.
    pub fn reset(
        &mut self,
        machine: Parts<'_>,
        request: ResetRequest,
    ) -> Result<ResetReport, ResetError> {
        let (golden, threads) = (self.golden.vcpus.len(), machine.threads.len());
        if golden != threads {
            return Err(ResetError::Vcpus { golden, machine: threads });
        }
        let mut context = Context {
            golden: &self.golden,
            machine,
            strategy: request.strategy,
            resumes: request.resumes,
            step_began: request.asked,
            vcpus: Vec::new(),
            dirty: &mut self.dirty,
            dirty_pages: 0,
            pages: PagesRestored::default(),
            disk_blocks: 0,
            clock_began: None,
            window: self.window,
        };
        let mut parts = ResetParts::default();
        for step in self.steps.iter() {
            (step.run)(&mut context).inspect_err(|error| {
                tracing::debug!(step = step.name, %error, "a reset failed");
            })?;
            let now = Instant::now();
            *(step.time)(&mut parts) += now - context.step_began;
            context.step_began = now;
        }
        context.dirty.clear();
        let Context { window, dirty_pages, pages, disk_blocks, .. } = context;
        self.window = window;
        Ok(ResetReport {
            strategy: request.strategy,
            parts,
            dirty_pages,
            copied_pages: pages.copied,
            dropped_pages: pages.dropped,
            disk_blocks,
        })
    }
}
