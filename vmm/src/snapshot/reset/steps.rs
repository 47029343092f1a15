//! The steps of a reset, in their order.
//!
//! Tests see what a check notices by running another list: one with a step less, or with a step that
//! does something else.

use std::time::{Duration, Instant};

use super::context::Context;
use super::pages::restore_pages;
use super::report::ResetParts;
use crate::arch::{RestoreKind, host_tsc};
use crate::snapshot::ResetError;
use crate::snapshot::dirty_pages::DirtyScope;

/// One step of a reset.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Name of the step, for a person.
    pub name: &'static str,
    /// Where its time is added up.
    pub time: fn(&mut ResetParts) -> &mut Duration,
    /// What it does. After an error the machine is poisoned: no later step runs.
    pub run: fn(&mut Context<'_>) -> Result<(), ResetError>,
}

impl Step {
    /// The vCPUs have left the guest on the way here. Devices let go of guest memory.
    pub const STOP: Self = Self { name: "stop", time: |parts| &mut parts.stop, run: stop };
    /// KVM's dirty log does not know what devices wrote, so their own record joins it.
    pub const COLLECT: Self =
        Self { name: "collect", time: |parts| &mut parts.collect, run: collect };
    /// Dirty pages get their golden content.
    pub const COPY: Self = Self { name: "copy", time: |parts| &mut parts.copy, run: copy };
    /// Device registers, queue positions and connections. Memory is back already.
    pub const DEVICES: Self =
        Self { name: "devices", time: |parts| &mut parts.devices, run: devices };
    /// The disk's overlay is dropped.
    pub const DISK: Self = Self { name: "disk", time: |parts| &mut parts.disk, run: disk };
    /// The processor forgets the translations that it made from page tables which are no longer there.
    pub const FLUSH: Self = Self { name: "flush", time: |parts| &mut parts.vcpus, run: flush };
    /// Interrupt controllers, timer and kvmclock. Devices come before, because restoring one may
    /// raise its interrupt.
    pub const VM: Self = Self { name: "vm", time: |parts| &mut parts.vm, run: vm };
    /// vCPUs with their local APICs. The I/O APIC comes before, because it may pass on what it holds.
    pub const VCPUS: Self = Self { name: "vcpus", time: |parts| &mut parts.vcpus, run: vcpus };
    /// A machine that was running runs on.
    pub const RESUME: Self = Self { name: "resume", time: |parts| &mut parts.resume, run: resume };

    /// A whole reset.
    pub const ALL: &'static [Self] = &[
        Self::STOP,
        Self::COLLECT,
        Self::COPY,
        Self::DEVICES,
        Self::DISK,
        Self::VM,
        Self::FLUSH,
        Self::VCPUS,
        Self::RESUME,
    ];
}

#[expect(clippy::unnecessary_wraps, reason = "a step, and steps can fail")]
fn stop(context: &mut Context<'_>) -> Result<(), ResetError> {
    // Host threads must not reach guest memory either. A machine that is paused, or poisoned by a
    // stop that failed, may or may not hold them already.
    context.machine.devices.quiesce();
    context.vcpus = context.machine.threads.iter().map(|thread| thread.vcpu()).collect();
    Ok(())
}

fn collect(context: &mut Context<'_>) -> Result<(), ResetError> {
    let hot = context.golden.hot_pages();
    context.dirty.collect(context.machine.vm, &mut context.vcpus, hot, DirtyScope::All)?;
    context.dirty_pages = context.dirty.pages();
    Ok(())
}

fn copy(context: &mut Context<'_>) -> Result<(), ResetError> {
    let (runs, ram) = (context.dirty.runs(), context.machine.vm.ram());
    context.pages = restore_pages(context.strategy, runs, ram, &context.golden.memory)
        .map_err(ResetError::Pages)?;
    Ok(())
}

fn devices(context: &mut Context<'_>) -> Result<(), ResetError> {
    Ok(context.machine.devices.restore(&context.golden.devices)?)
}

fn disk(context: &mut Context<'_>) -> Result<(), ResetError> {
    context.disk_blocks = context.machine.devices.discard_disk_writes()?;
    Ok(())
}

fn vm(context: &mut Context<'_>) -> Result<(), ResetError> {
    context.clock_began = Some(context.step_began);
    Ok(context.machine.vm.restore(&context.golden.vm)?)
}

fn flush(context: &mut Context<'_>) -> Result<(), ResetError> {
    if context.dirty.flush(context.machine.vm)? {
        return Ok(());
    }
    for (vcpu, image) in context.vcpus.iter_mut().zip(&context.golden.vcpus) {
        vcpu.flush_translations(image)?;
    }
    Ok(())
}

fn vcpus(context: &mut Context<'_>) -> Result<(), ResetError> {
    let kind = if context.vcpus.len() == 1 { RestoreKind::Only } else { RestoreKind::OneOfSeveral };
    // One reading for all, so that their counters stay equal.
    let now = host_tsc();
    for (vcpu, image) in context.vcpus.iter_mut().zip(&context.golden.vcpus) {
        vcpu.restore(image, now, kind)?;
    }
    let earliest = context.clock_began.unwrap_or(context.step_began);
    context.window = Some((earliest, Instant::now()));
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "a step, and steps can fail")]
fn resume(context: &mut Context<'_>) -> Result<(), ResetError> {
    context.vcpus.clear();
    if context.resumes {
        context.machine.devices.resume();
        for thread in context.machine.threads {
            thread.run();
        }
    }
    Ok(())
}
