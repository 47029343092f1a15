//! What the relay is told about a command that ran.
//!
//! # Heads of the chains
//!
//! Every result carries the heads of two chains of this machine, so that a relay that keeps results keeps
//! anchors: what was written here before cannot be changed afterwards without contradicting them.
//! `evidence` is the hash of the command's last chunk of evidence, the same as `evidence_hash`.
//! `audit` is the last row of the audit log that was on disk when the result was made. The row with
//! the command's envelope (kind `CommandEnvelope`) is that row or one before it, unless the log could
//! not be written; the row with the result itself comes after it. `brainstorm-agent audit verify
//! --anchor SEQ:HASH` compares such a head with the log.
//!
//! A completed result has them in its payload:
//! `"chains":{"audit":{"head":"sha256:…","seq":N},"evidence":"sha256:…"}`.
//! A failed result has no payload and a closed schema, so they are the last line of its error's
//! message: `chains: ` and the same object in canonical JSON. Only the last line counts: lines before
//! it may be what a tool wrote.

use crate::reset_report::reset_report;
use std::fmt::Write;

use guest::evidence::Chain;
use guest::wire::ResultReason;
use serde_json::{Map, Value, json};

use super::cut::{self, OutputStream, cut_middle, put_streams};
use crate::store::AuditHead;
use protocol::code::ErrorCode;
use protocol::message::{CommandResult, Frame, ResultHead, SandboxResetState};
use sandbox::{Executed, Failure};
use sandbox::{SandboxError, ToolOutcome, Verdict, Verification};

/// Bytes of each stream that go into the message of a failed result. The whole output stays in the
/// local evidence.
const TAIL_BYTES: usize = 2048;

/// Heads of the chains a result anchors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chains {
    /// Last row of the audit log that is on disk.
    pub audit: AuditHead,
    /// Hash of the last chunk of the command's evidence.
    pub evidence: String,
}

impl Chains {
    /// As the last line of a failed result's message, with the end of the line before it.
    fn line(&self) -> String {
        let Self { audit: AuditHead { seq, hash }, evidence } = self;
        // Canonical as it is: hashes need no escapes.
        format!(
            "\nchains: {{\"audit\":{{\"head\":\"{hash}\",\"seq\":{seq}}},\"evidence\":\"{evidence}\"}}"
        )
    }

    fn value(&self) -> Value {
        let Self { audit: AuditHead { seq, hash }, evidence } = self;
        json!({"audit": {"head": hash, "seq": seq}, "evidence": evidence})
    }
}

/// The parts of a result that come from the sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What the relay's result holds: a payload of a command that completed, or why it failed.
    pub verdict: Result<Value, Problem>,
    /// Head of the evidence chain.
    pub evidence_hash: String,
    /// What is known of the machine afterwards.
    pub reset: Option<SandboxResetState>,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The protocol's code.
    pub code: ErrorCode,
    /// In words.
    pub message: String,
}

impl Outcome {
    /// Judges a command. Only a tool that ended with 0 on a machine that was verified afterwards
    /// has completed. Output and message are cut so that the result fits into a frame of `bound` bytes.
    pub fn of_execution(command_id: &str, executed: &Executed, bound: usize) -> Self {
        let room = bound.saturating_sub(cut::OVERHEAD);
        let reset = match &executed.reset {
            Some(Ok(verification)) => Some(reset_report(verification)),
            _ => None,
        };
        let evidence_hash = match &executed.result {
            Ok(outcome) => outcome.evidence_hash.clone(),
            Err(failure) => {
                failure.partial.evidence_hash.clone().unwrap_or_else(|| empty_evidence(command_id))
            }
        };
        let of_tool = match &executed.result {
            Ok(outcome) => of_tool(outcome, room),
            Err(failure) => Err(of_failure(failure)),
        };
        // A command that reached no machine needs no verification.
        let untouched = executed.result.is_err() && executed.reset.is_none();
        let verdict = match of_reset(executed.reset.as_ref()) {
            Some(mut problem) if !untouched => {
                if let Err(of_tool) = of_tool {
                    problem.message.push_str("; the tool itself: ");
                    problem.message.push_str(&of_tool.message);
                }
                Err(problem)
            }
            _ => of_tool,
        };
        let verdict = verdict
            .map_err(|problem| Problem { message: cut_middle(problem.message, room), ..problem });
        Self { verdict, evidence_hash, reset }
    }

    /// Puts the heads of the chains where the module's head says they are.
    pub fn anchor(&mut self, audit: AuditHead) {
        let chains = Chains { audit, evidence: self.evidence_hash.clone() };
        match &mut self.verdict {
            Ok(Value::Object(payload)) => {
                payload.insert("chains".into(), chains.value());
            }
            Ok(_) => {}
            Err(problem) => problem.message.push_str(&chains.line()),
        }
    }

    /// The result, whose frame has at most `bound` bytes. One that is longer although output and message
    /// were cut is replaced by a failed one that says so.
    pub fn into_result(self, head: ResultHead, bound: usize) -> CommandResult {
        let (code, message, reset) = match (self.verdict, self.reset) {
            (Err(problem), reset) => (problem.code, problem.message, reset),
            (Ok(payload), Some(reset)) => {
                match CommandResult::completed(head.clone(), payload, reset.clone()) {
                    Ok(result) if result.to_text().len() <= bound => return result,
                    Ok(_) => (ErrorCode::Internal, cut::message_of_too_long(bound), Some(reset)),
                    Err(error) => (ErrorCode::Internal, error.to_string(), Some(reset)),
                }
            }
            (Ok(_), None) => {
                let message = "it was not verified that the machine was reset".to_owned();
                (ErrorCode::ResetVerificationTimeout, message, None)
            }
        };
        let result = CommandResult::failed(head.clone(), code, message, reset);
        if result.to_text().len() <= bound {
            return result;
        }
        CommandResult::failed(head, code, cut::message_of_too_long(bound), None)
    }
}

/// Evidence of no output: a chain of one empty chunk.
pub fn empty_evidence(command_id: &str) -> String {
    let mut chain = Chain::new(command_id);
    chain.append(&[]);
    chain.hash()
}

fn of_tool(outcome: &ToolOutcome, room: usize) -> Result<Value, Problem> {
    if outcome.exit_code == 0 && outcome.reason.is_none() {
        return Ok(payload(outcome, room));
    }
    let code = match outcome.reason {
        Some(ResultReason::DeadlineExceeded) => ErrorCode::SandboxToolTimeout,
        _ => ErrorCode::SandboxToolError,
    };
    let mut message = format!("tool exited with {}", outcome.exit_code);
    if let Some(detail) = &outcome.message {
        // Writing to a string does not fail, here and below.
        let _ = write!(message, " ({detail})");
    }
    push_tail(&mut message, "stdout", &outcome.stdout, outcome.stdout_total);
    push_tail(&mut message, "stderr", &outcome.stderr, outcome.stderr_total);
    Err(Problem { code, message })
}

fn of_failure(failure: &Failure) -> Problem {
    let mut message = failure.message.clone();
    let partial = &failure.partial;
    push_tail(&mut message, "stdout", &partial.stdout, partial.stdout.len() as u64);
    push_tail(&mut message, "stderr", &partial.stderr, partial.stderr.len() as u64);
    Problem { code: ErrorCode::SandboxOther(failure.code), message }
}

/// What is wrong with the machine, if anything is. A machine that was not verified is wrong.
fn of_reset(reset: Option<&Result<Verification, SandboxError>>) -> Option<Problem> {
    let (code, message) = match reset {
        Some(Ok(verification)) => {
            let code = match verification.verdict() {
                Verdict::Passed => return None,
                Verdict::Diverged => ErrorCode::ResetVerificationDivergence,
                Verdict::Silent => ErrorCode::ResetVerificationTimeout,
            };
            (code, verification.failure().unwrap_or_default())
        }
        Some(Err(error)) => (ErrorCode::ResetFailed, error.to_string()),
        None => (
            ErrorCode::ResetVerificationTimeout,
            "it was not verified that the machine was reset".to_owned(),
        ),
    };
    Some(Problem { code, message })
}

/// The streams take at most `room` bytes of it.
fn payload(outcome: &ToolOutcome, room: usize) -> Value {
    let mut payload = Map::new();
    payload.insert("exit_code".into(), json!(outcome.exit_code));
    let streams = [
        (&outcome.stdout, outcome.stdout_truncated, outcome.stdout_total),
        (&outcome.stderr, outcome.stderr_truncated, outcome.stderr_total),
    ];
    let streams =
        streams.map(|(bytes, is_cut, total)| OutputStream::new(bytes, is_cut, total, room));
    put_streams(&mut payload, streams, room);
    Value::Object(payload)
}

fn push_tail(message: &mut String, name: &str, bytes: &[u8], total: u64) {
    if bytes.is_empty() {
        return;
    }
    let tail = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let text = text.trim_end();
    if (tail.len() as u64) < total {
        let _ = write!(message, "\n{name} (last {} of {total} bytes): {text}", tail.len());
    } else {
        let _ = write!(message, "\n{name}: {text}");
    }
}

#[cfg(test)]
mod tests;
