//! One command, from its envelope to its result.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, error, info, warn};

use super::Commands;
use super::admission::Admitted;
use super::answers::{Answer, Caller};
use super::executor::ToolFacts;
use super::milestone::{Milestone, Trace};
use super::outcome::Outcome;
use crate::evidence::EvidenceRecord;
use crate::store::{AuditEntry, AuditHead, Channel, CommandState, JournalRoom};
use protocol::canonical::canonical_bytes;
use protocol::code::ErrorCode;
use protocol::envelope::CommandEnvelope;
use protocol::message::{
    CommandAck, CommandResult, Frame, Progress, ProgressEvent, ProgressState, ResultHead,
};
use sandbox::{Executed, Failure};
use sandbox::{PartialOutput, ToolCall};

/// A relay waits so long for an acknowledgement (protocol 5.1.5). Then it drops all that comes of the
/// command.
const RELAY_WAITS: Duration = Duration::from_secs(5);
/// An acknowledgement that is not written so long after the envelope came is not sent: it has to travel.
const ACK_WITHIN: Duration = Duration::from_secs(4);

/// How often a command that runs says so.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

impl Commands {
    /// Takes the text of an envelope, which had been read at `received`. Returns once the command is
    /// acknowledged or refused; the command runs on its own. The caller is told of either.
    pub async fn submit(
        self: &Arc<Self>,
        caller: Arc<dyn Caller>,
        text: String,
        received: Instant,
    ) {
        let admitted = match self.admit(caller.session_id(), &text, received).await {
            Ok(admitted) => admitted,
            Err(refused) => return self.refuse(&*caller, refused).await,
        };
        drop(text);
        let commands = Arc::clone(self);
        let (acked, ack) = tokio::sync::oneshot::channel();
        // The command goes on when the task that submitted it is gone.
        self.tasks.spawn(async move {
            let command_id = admitted.envelope.command_id.clone();
            let run = Arc::clone(&commands).run(&*caller, admitted, acked);
            if AssertUnwindSafe(run).catch_unwind().await.is_err() {
                commands.answer_after_panic(&*caller, &command_id).await;
            }
        });
        let _ = ack.await;
    }

    async fn run(
        self: Arc<Self>,
        caller: &dyn Caller,
        admitted: Admitted,
        acked: tokio::sync::oneshot::Sender<()>,
    ) {
        let Admitted { envelope, tool, deadline_ms, permit, room, mut trace } = admitted;
        let envelope = Arc::new(envelope);
        self.audit_command(caller, &envelope, "CommandEnvelope", None, envelope.canonical.clone());
        let ack = CommandAck {
            command_id: envelope.command_id.clone(),
            endpoint_id: self.parts.endpoint.endpoint_id.clone(),
            session_id: caller.session_id().to_owned(),
            track: tool.track,
            will_emit_progress: true,
            estimated_duration_ms: Some(tool.estimated_duration_ms),
            ts: self.now(),
        };
        let received = trace.received();
        let sent = caller.acknowledge(ack, received + ACK_WITHIN).await;
        drop(acked);
        let message = if received.elapsed() >= RELAY_WAITS {
            // The relay has told its operator already that nothing came of the command.
            Some("the acknowledgement came too late for the relay, so the command was not run")
        } else if sent.is_err() {
            Some("the command could not be acknowledged in time, so it was not run")
        } else {
            None
        };
        if let Some(message) = message {
            self.fail_unacked(caller, &envelope, message, room, permit).await;
            return;
        }
        self.parts.journal.note(&envelope.command_id, CommandState::Acked);
        self.reach(&mut trace, Milestone::Acked);

        let (executed, mut trace) = self.execute(caller, &envelope, tool, deadline_ms, trace).await;
        trace.execute = executed.execute;
        trace.reset = executed.reset_took;
        self.reach(&mut trace, Milestone::Executed);
        self.conclude(caller, &envelope, executed, trace, room, permit).await;
    }

    /// Runs the tool on a thread where it may block, and tells the caller how it goes.
    async fn execute(
        self: &Arc<Self>,
        caller: &dyn Caller,
        envelope: &Arc<CommandEnvelope>,
        tool: ToolFacts,
        deadline_ms: i64,
        mut trace: Trace,
    ) -> (Executed, Trace) {
        // Since it was admitted, another command may have left its machine in a wrong state.
        if let Some(message) = self.refusal_while_degraded() {
            return (Self::not_run_while_degraded(message), trace);
        }
        // Its time runs since it came, not since the disk and the caller were done with it.
        let spent = i64::try_from(trace.received().elapsed().as_millis()).unwrap_or(i64::MAX);
        let deadline_ms = deadline_ms.saturating_sub(spent);
        let call = ToolCall {
            command_id: envelope.command_id.clone(),
            tool: envelope.tool.clone(),
            params: envelope.params.clone(),
            deadline_ms,
        };
        let tenant = envelope.tenant_id.clone();
        let executor = Arc::clone(&self.parts.executor);
        let (started, mut start) = tokio::sync::oneshot::channel();
        let begun = Instant::now();
        let gate = self.gate(envelope, tool, move || {
            let _ = started.send(Instant::now());
        });
        let mut work = tokio::task::spawn_blocking(move || executor.execute(&tenant, call, gate));
        let mut running = false;
        let mut seq = 0;
        let mut beat = tokio::time::interval_at((begun + PROGRESS_EVERY).into(), PROGRESS_EVERY);
        let done = loop {
            tokio::select! {
                biased;
                moment = &mut start, if !running => {
                    running = true;
                    if moment.is_ok() {
                        self.reach(&mut trace, Milestone::Started);
                        self.parts.journal.note(&envelope.command_id, CommandState::Started);
                        seq += 1;
                        self.progress(caller, envelope, seq, None).await;
                    }
                }
                done = &mut work => break done,
                _ = beat.tick() => {
                    seq += 1;
                    let progress = of_deadline(begun.elapsed(), deadline_ms, running);
                    self.progress(caller, envelope, seq, Some(progress)).await;
                }
            }
        };
        let executed = done.unwrap_or_else(|error| {
            warn!(%error, command = envelope.command_id, "running the command failed");
            Executed {
                result: Err(Failure {
                    code: ErrorCode::Internal.as_str(),
                    message: "the agent failed while it ran the command".to_owned(),
                    partial: PartialOutput::default(),
                }),
                reset: None,
                execute: Duration::ZERO,
                reset_took: Duration::ZERO,
            }
        });
        (executed, trace)
    }

    /// `None` says that the command has started.
    async fn progress(
        &self,
        caller: &dyn Caller,
        envelope: &CommandEnvelope,
        seq: u64,
        progress: Option<Progress>,
    ) {
        let started = progress.is_none();
        let event = ProgressEvent {
            command_id: envelope.command_id.clone(),
            endpoint_id: self.parts.endpoint.endpoint_id.clone(),
            session_id: caller.session_id().to_owned(),
            lifecycle_state: if started { ProgressState::Started } else { ProgressState::Progress },
            seq,
            progress,
            ts: self.now(),
        };
        // A caller that is gone misses it: only the result is owed.
        let _ = caller.answer(Answer::Progress(event)).await;
    }

    /// Makes the result durable and delivers it. The command is in flight until it is durable, so that
    /// results for which there is no disk stay as few as commands in flight may be.
    async fn conclude(
        &self,
        caller: &dyn Caller,
        envelope: &CommandEnvelope,
        executed: Executed,
        mut trace: Trace,
        room: JournalRoom,
        permit: OwnedSemaphorePermit,
    ) {
        let id = &envelope.command_id;
        self.halt_if_needed(id, &executed).await;
        let mut outcome = Outcome::of_execution(id, &executed, self.parts.frame_bytes);
        outcome.anchor(self.audit_head().await);
        let result = self.result(id, caller.session_id(), outcome);
        trace.completed = result.error().is_none();
        self.keep_evidence(envelope, &executed, &result).await;
        let code = result.error().map(|error| error.code.clone());
        info!(
            command = id,
            tool = envelope.tool,
            state = if trace.completed { "completed" } else { "failed" },
            code,
            execute_us = trace.execute.as_micros(),
            reset_us = trace.reset.as_micros(),
        );
        let frame = result.to_text();
        let canonical = canonical_bytes(&result).unwrap_or_else(|_| frame.clone().into_bytes());
        self.audit_command(caller, envelope, "CommandResult", code, canonical);
        // The chunks would wait in memory for the caller.
        drop(executed);
        self.persist_and_send(caller, id, frame, Some(trace), Some(room), permit).await;
    }

    async fn keep_evidence(
        &self,
        envelope: &CommandEnvelope,
        executed: &Executed,
        result: &CommandResult,
    ) {
        let evidence = &self.parts.evidence;
        match EvidenceRecord::new(envelope, executed, result, evidence.image(), self.now()) {
            Ok(record) => evidence.keep(record).await,
            Err(error) => warn!(command = envelope.command_id, %error, "no evidence is kept"),
        }
        if evidence.is_full() {
            self.sweep_evidence().await;
        }
    }

    /// A result of this endpoint in a session.
    fn result(&self, command_id: &str, session_id: &str, outcome: Outcome) -> CommandResult {
        let head = ResultHead {
            command_id: command_id.to_owned(),
            endpoint_id: self.parts.endpoint.endpoint_id.clone(),
            session_id: session_id.to_owned(),
            evidence_hash: outcome.evidence_hash.clone(),
            ts: self.now(),
        };
        outcome.into_result(head, self.parts.frame_bytes)
    }

    /// The last row of the audit log that is on disk, once all that was queued is, if it can be.
    async fn audit_head(&self) -> AuditHead {
        match self.parts.audit.flush().await {
            Ok(head) => head,
            Err(error) => {
                warn!(%error, "the result anchors an older row of the audit log");
                self.parts.audit.head()
            }
        }
    }

    /// Ends a command in whose course this agent panicked. An error event is right whether it was
    /// acknowledged or not; a result that it has already stays.
    async fn answer_after_panic(&self, caller: &dyn Caller, command_id: &str) {
        error!(command = command_id, "the agent failed in the course of a command; report this");
        let message = "the agent failed in the course of the command; what came of it is unknown";
        let event = self.parts.error_event(Some(command_id), "", ErrorCode::Internal, message);
        let room = self.parts.journal.reserve().await.ok();
        self.persist_and_send(caller, command_id, event.to_text(), None, room, ()).await;
    }

    /// Ends a command that was not acknowledged. A result is no answer to such a command, an error
    /// event is.
    async fn fail_unacked(
        &self,
        caller: &dyn Caller,
        envelope: &CommandEnvelope,
        message: &str,
        room: JournalRoom,
        permit: OwnedSemaphorePermit,
    ) {
        let id = &envelope.command_id;
        debug!(command = id, message);
        let event = self.parts.error_event(Some(id), "", ErrorCode::Internal, message);
        self.persist_and_send(caller, id, event.to_text(), None, Some(room), permit).await;
    }

    fn audit_command(
        &self,
        caller: &dyn Caller,
        envelope: &CommandEnvelope,
        kind: &str,
        code: Option<String>,
        payload: Vec<u8>,
    ) {
        let state = match (kind, &code) {
            ("CommandResult", None) => "completed",
            ("CommandResult", Some(_)) => "failed",
            _ => "dispatched",
        };
        self.parts.audit.append(AuditEntry {
            command_id: Some(envelope.command_id.clone()),
            session_id: Some(caller.session_id().to_owned()),
            correlation_id: Some(envelope.correlation_id.clone()),
            operator_id: Some(envelope.operator.id.clone()),
            lifecycle_state: Some(state.to_owned()),
            code,
            payload,
            ..self.parts.audit_entry(Channel::Endpoint, kind)
        });
    }
}

/// The part of its deadline that a command has used up: more cannot be known of any tool.
fn of_deadline(elapsed: Duration, deadline_ms: i64, running: bool) -> Progress {
    let deadline = Duration::from_millis(u64::try_from(deadline_ms).unwrap_or_default());
    let fraction = elapsed.as_secs_f64() / deadline.as_secs_f64().max(0.001);
    let what = if running { "runs" } else { "waits for a machine" };
    let message = format!("{what}, {} s after it was acknowledged", elapsed.as_secs());
    Progress { fraction: fraction.min(0.99), message }
}
