//! How far a command has come, for metrics and for tests that cut in.

use std::time::{Duration, Instant};

use protocol::code::ErrorCode;

/// Stations of a command, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    /// Signature, audience and times hold.
    Verified,
    /// The nonce of the command is on disk.
    NonceSpent,
    /// The journal has it on disk.
    Accepted,
    /// The acknowledgement was written to the caller.
    Acked,
    /// It has a machine.
    Started,
    /// The tool has ended, and its machine was reset and verified.
    Executed,
    /// The result of the command is on disk.
    ResultReady,
    /// The result was written to the caller.
    Sent,
    /// The caller has read the result.
    Confirmed,
}

/// The number of milestones.
const COUNT: usize = Milestone::Confirmed as usize + 1;

/// Watches how far commands come. It is called on the way of the command, so it has to be quick.
pub trait Observer: Send + Sync + 'static {
    /// The command has come this far.
    fn reached(&self, command_id: &str, milestone: Milestone) {
        let _ = (command_id, milestone);
    }

    /// Nothing more will happen to the command in this session.
    fn finished(&self, trace: &Trace) {
        let _ = trace;
    }

    /// A command was refused before it was acknowledged.
    fn refused(&self, code: ErrorCode) {
        let _ = code;
    }
}

/// Observes nothing.
pub struct NoObserver;

impl Observer for NoObserver {}

/// The times at which one command reached its milestones.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The command.
    pub command_id: String,
    /// The tool that the command names.
    pub tool: String,
    /// Whether the result says `completed`.
    pub completed: bool,
    /// Time the tool had in its machine.
    pub execute: Duration,
    /// Time its machine took to be reset and verified.
    pub reset: Duration,
    received: Instant,
    reached: [Option<Duration>; COUNT],
}

/// Parts of a command's time, in order; together they are the time from the envelope's last byte
/// to the result's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// Checking the envelope.
    pub verify: Duration,
    /// Making nonce and journal entry durable.
    pub store: Duration,
    /// Policy, and writing the acknowledgement.
    pub ack: Duration,
    /// Waiting for a machine.
    pub wait: Duration,
    /// The tool.
    pub execute: Duration,
    /// Reset and verification.
    pub reset: Duration,
    /// Making the result durable, handing it between threads, and writing it to the socket.
    pub send: Duration,
    /// All of it.
    pub total: Duration,
}

impl Trace {
    /// A command whose envelope had been read at `received`.
    pub fn new(command_id: String, tool: String, received: Instant) -> Self {
        Self {
            command_id,
            tool,
            completed: false,
            execute: Duration::ZERO,
            reset: Duration::ZERO,
            received,
            reached: [None; COUNT],
        }
    }

    /// When its envelope had been read.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// Notes that it came this far now.
    pub fn mark(&mut self, milestone: Milestone) {
        self.reached[milestone as usize] = Some(self.received.elapsed());
    }

    /// When it came this far, since its envelope was read.
    pub fn at(&self, milestone: Milestone) -> Option<Duration> {
        self.reached[milestone as usize]
    }

    /// The parts of its time. `None` before the result was sent.
    pub fn phases(&self) -> Option<Phases> {
        let verified = self.at(Milestone::Verified)?;
        let accepted = self.at(Milestone::Accepted)?;
        let acked = self.at(Milestone::Acked)?;
        let started = self.at(Milestone::Started)?;
        let total = self.at(Milestone::Sent)?;
        let known = started + self.execute + self.reset;
        Some(Phases {
            verify: verified,
            store: accepted.saturating_sub(verified),
            ack: acked.saturating_sub(accepted),
            wait: started.saturating_sub(acked),
            execute: self.execute,
            reset: self.reset,
            send: total.saturating_sub(known),
            total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_add_up() {
        let mut trace = Trace::new("c".into(), "echo".into(), Instant::now());
        let stations = [
            (Milestone::Verified, 1),
            (Milestone::NonceSpent, 2),
            (Milestone::Accepted, 4),
            (Milestone::Acked, 5),
            (Milestone::Started, 7),
            (Milestone::Executed, 30),
            (Milestone::ResultReady, 33),
        ];
        for (milestone, ms) in stations {
            trace.reached[milestone as usize] = Some(Duration::from_millis(ms));
        }
        assert_eq!(trace.phases(), None);
        trace.reached[Milestone::Sent as usize] = Some(Duration::from_millis(35));
        trace.execute = Duration::from_millis(15);
        trace.reset = Duration::from_millis(6);
        let phases = trace.phases().unwrap();
        let parts = [
            phases.verify,
            phases.store,
            phases.ack,
            phases.wait,
            phases.execute,
            phases.reset,
            phases.send,
        ];
        assert_eq!(parts.map(|part| part.as_millis()), [1, 3, 1, 2, 15, 6, 7]);
        assert_eq!(parts.iter().sum::<Duration>(), phases.total);
    }
}
