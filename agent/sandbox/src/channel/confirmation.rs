//! Whether the guest took over the time and the randomness of a command. Without that a tool
//! may not run, so nothing a tool seems to have written is believed.

use std::time::{Duration, Instant};

use guest::wire::{
    EvidenceChunk, Freshness, FreshnessAck, ResultReason, ToolResult, entropy_sha256,
};

/// Furthest the guest's clock may be before the time it was sent, or after what that has become
/// since: a busy host leaves a guest waiting between setting its clock and reading it.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);
/// Exit codes and reasons of tools that were refused before they could start.
const NEVER_STARTED: [(i32, ResultReason); 3] = [
    (127, ResultReason::UnknownTool),
    (254, ResultReason::InvalidParams),
    (254, ResultReason::StartFailed),
];

/// What is known about one command's freshness. Faults are told in words.
pub struct Confirmation {
    wall_time_ns: u64,
    sent: Instant,
    /// `None` when nothing usable was sent; then nothing can confirm it.
    entropy_sha256: Option<String>,
    state: ConfirmationState,
}

enum ConfirmationState {
    Awaited,
    /// The evidence of a tool that was never started came instead.
    Skipped,
    Given,
}

impl Confirmation {
    /// Awaits the confirmation of what was sent.
    pub fn of(freshness: &Freshness) -> Self {
        Self {
            wall_time_ns: freshness.wall_time_ns,
            sent: Instant::now(),
            entropy_sha256: freshness.entropy_bytes().as_ref().map(entropy_sha256),
            state: ConfirmationState::Awaited,
        }
    }

    /// Takes the guest's word: once, before any evidence, and only for what was sent.
    pub fn accept(&mut self, ack: &FreshnessAck) -> Result<(), String> {
        match self.state {
            ConfirmationState::Awaited => {}
            ConfirmationState::Skipped => {
                return Err("it confirmed them after its evidence".to_owned());
            }
            ConfirmationState::Given => return Err("it confirmed them twice".to_owned()),
        }
        if self.entropy_sha256.as_ref() != Some(&ack.entropy_sha256) {
            return Err("it took over other random bytes than were sent".to_owned());
        }
        let late = Duration::from_nanos(ack.guest_time_ns.saturating_sub(self.wall_time_ns))
            .saturating_sub(self.sent.elapsed());
        let early = Duration::from_nanos(self.wall_time_ns.saturating_sub(ack.guest_time_ns));
        let off = late.max(early);
        if off > CLOCK_TOLERANCE {
            return Err(format!(
                "its clock is {off:?} from the time that was sent; the limit is {CLOCK_TOLERANCE:?}"
            ));
        }
        self.state = ConfirmationState::Given;
        Ok(())
    }

    /// Whether a chunk may come now. The terminal one is all the evidence of a tool that was
    /// never started.
    pub fn check_chunk(&mut self, chunk: &EvidenceChunk) -> Result<(), String> {
        match self.state {
            ConfirmationState::Given => Ok(()),
            ConfirmationState::Awaited if chunk.is_terminal => {
                self.state = ConfirmationState::Skipped;
                Ok(())
            }
            ConfirmationState::Awaited | ConfirmationState::Skipped => {
                Err("its tool wrote output all the same".to_owned())
            }
        }
    }

    /// Whether a result may come now.
    pub fn check_result(&self, result: &ToolResult) -> Result<(), String> {
        let never_started =
            result.reason.is_some_and(|reason| NEVER_STARTED.contains(&(result.exit_code, reason)))
                && result.stdout_bytes == 0
                && result.stderr_bytes == 0;
        if matches!(self.state, ConfirmationState::Given) || never_started {
            Ok(())
        } else {
            Err("its tool ran all the same".to_owned())
        }
    }
}
