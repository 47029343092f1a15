//! The pages that nearly every command writes, learned before the first one comes.
//!
//! Learned from commands of the agent's own and never again: a guest that had a say in it could
//! leave a message for the next one, which could tell by how long a write takes.

use vmm::{PageSet, Strategy};

use super::alone::put_back;
use super::golden::{GoldenSandbox, capture_failed, warm_up, warm_up_answers};
use super::live::Live;
use crate::error::SandboxError;

/// What every one of them writes is a habit.
const TURNS: usize = 2;

/// Learns the habit, unless that has been done for this golden state, or pages are dropped and not
/// copied: then the guest has its faults in any case. Whoever comes meanwhile waits. The machine is
/// golden afterwards; after an error it is of no use.
pub fn learn(live: &Live, golden: &GoldenSandbox, strategy: Strategy) -> Result<(), SandboxError> {
    if strategy == Strategy::DropPrivate {
        return Ok(());
    }
    golden
        .learn_once(|| {
            // What the guest did since it was captured is nobody's habit.
            put_back(live, strategy, None)?;
            let mut habit: Option<(PageSet, PageSet)> = None;
            for turn in 0..TURNS {
                warm_up(live, &format!("habit-{turn}"))?;
                let command = written(live, strategy)?;
                warm_up_answers(live)?;
                let answers = written(live, strategy)?;
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
        .inspect_err(|_| live.machine.shutdown())
}

fn written(live: &Live, strategy: Strategy) -> Result<PageSet, SandboxError> {
    put_back(live, strategy, None)?;
    live.machine
        .last_reset_pages()
        .map_err(|e| capture_failed(live, &format!("learning what commands write: {e}")))
}
