//! The pages that nearly every command writes, profiled before the first one comes.
//!
//! Learned from commands of the agent's own and never again: a guest that had a say in it could
//! leave a message for the next one, which could tell by how long a write takes.

use vmm::{PageSet, Strategy};

use super::connected::Connected;
use super::exclusive::reset_machine;
use super::golden::{GoldenSandbox, capture_failed, warm_up, warm_up_answers};
use crate::error::SandboxError;

/// What every one of them writes is a habit.
const TURNS: usize = 2;

/// Learns the habit, unless that has been done for this golden state, or pages are dropped and not
/// copied: then the guest has its faults in any case. A caller that comes meanwhile waits. The machine is
/// golden afterwards; after an error it is of no use.
pub fn profile(
    connected: &Connected,
    golden: &GoldenSandbox,
    strategy: Strategy,
) -> Result<(), SandboxError> {
    if strategy == Strategy::DropPrivate {
        return Ok(());
    }
    golden
        .profile_once(|| {
            // What the guest wrote since the capture is no sample of a command.
            reset_machine(connected, strategy, None)?;
            let mut habit: Option<(PageSet, PageSet)> = None;
            for turn in 0..TURNS {
                warm_up(connected, &format!("habit-{turn}"))?;
                let command = written(connected, strategy)?;
                warm_up_answers(connected)?;
                let answers = written(connected, strategy)?;
                habit = Some(match habit {
                    None => (command, answers),
                    Some((c, a)) => (c.intersection(&command), a.intersection(&answers)),
                });
            }
            if let Some((command, answers)) = habit {
                golden.golden().set_hot_pages(command.union(&answers));
            }
            Ok(())
        })
        .inspect_err(|_| connected.machine.shutdown())
}

fn written(connected: &Connected, strategy: Strategy) -> Result<PageSet, SandboxError> {
    reset_machine(connected, strategy, None)?;
    connected
        .machine
        .last_reset_pages()
        .map_err(|e| capture_failed(connected, &format!("learning what commands write: {e}")))
}
