//! Resets that are broken on purpose: other lists of steps.

use std::borrow::Cow;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::machine::{Machine, Phase};
use crate::memory::PAGE_BYTES;
use crate::snapshot::ResetError;
use crate::snapshot::reset::context::Context;
use crate::snapshot::reset::steps::Step;

/// A way to break a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The first dirty page stays as it is.
    SkipPage,
    /// Device state stays as it is.
    SkipDevices,
    /// The disk's overlay stays as it is.
    SkipDisk,
    /// The processor keeps the translations that it has.
    SkipFlush,
    /// Interrupt controllers stay as they are.
    SkipVm,
    /// vCPUs stay as they are.
    SkipVcpus,
    /// The step after the pages fails.
    Fail,
    /// The thread has to wait for a processor between kvmclock and the vCPUs.
    Dawdle,
}

impl Sabotage {
    fn steps(self) -> Vec<Step> {
        match self {
            Self::SkipPage => {
                with(Step::COPY, &[Step { run: copy_all_but_the_first, ..Step::COPY }])
            }
            Self::SkipDevices => with(Step::DEVICES, &[]),
            Self::SkipDisk => with(Step::DISK, &[]),
            Self::SkipFlush => with(Step::FLUSH, &[]),
            Self::SkipVm => with(Step::VM, &[]),
            Self::SkipVcpus => with(Step::VCPUS, &[]),
            Self::Fail => with(Step::DEVICES, &[Step { run: fail, ..Step::DEVICES }]),
            Self::Dawdle => with(Step::VM, &[Step::VM, Step { run: dawdle, ..Step::VM }]),
        }
    }
}

/// Gives a machine that is paused or poisoned another list of steps; `None` mends it.
pub fn sabotage(machine: &Machine, how: Option<Sabotage>) {
    let phase = machine.lock();
    let (Phase::Paused(live) | Phase::Poisoned(live, _)) = &*phase else { panic!() };
    live.core.resetter.lock().unwrap().as_mut().unwrap().steps =
        how.map_or(Cow::Borrowed(Step::ALL), |how| Cow::Owned(how.steps()));
}

/// The list with `instead` in the place of one step.
fn with(replaced: Step, instead: &[Step]) -> Vec<Step> {
    let (before, after) = match Step::ALL.iter().position(|step| step.name == replaced.name) {
        Some(at) => (&Step::ALL[..at], &Step::ALL[at + 1..]),
        None => panic!("no step {}", replaced.name),
    };
    [before, instead, after].concat()
}

fn copy_all_but_the_first(context: &mut Context<'_>) -> Result<(), ResetError> {
    let run = context.dirty.runs()[0];
    let start = context.golden.memory.regions()[run.region].start + run.bytes().start as u64;
    let (at, ram) = (GuestAddress(start), context.machine.vm.ram());
    let mut first = vec![0; PAGE_BYTES];
    ram.read_slice(&mut first, at).unwrap();
    (Step::COPY.run)(context)?;
    ram.write_slice(&first, at).unwrap();
    ram.iter().for_each(|region| region.bitmap().map().clear());
    Ok(())
}

fn fail(_: &mut Context<'_>) -> Result<(), ResetError> {
    Err(ResetError::Pages(std::io::Error::other("sabotage")))
}

#[expect(clippy::unnecessary_wraps, reason = "a step, and steps can fail")]
fn dawdle(_: &mut Context<'_>) -> Result<(), ResetError> {
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}
