//! The result of `exec` for programs, and its timings for people and programs.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use guest::wire::ResultReason;
use serde::Serialize;

use sandbox::{BootReport, SandboxError, ToolOutcome};

/// A tool that ended by itself.
#[derive(Debug, Serialize)]
pub struct Success<'a> {
    command_id: &'a str,
    exit_code: i32,
    reason: Option<ResultReason>,
    message: Option<&'a str>,
    #[serde(flatten)]
    output: Output,
    stdout_bytes: u64,
    stderr_bytes: u64,
    truncated: bool,
    stdout_truncated: bool,
    stderr_truncated: bool,
    evidence_hash: &'a str,
    timings_us: &'a Timings,
}

/// A call that failed.
#[derive(Debug, Serialize)]
pub struct ExecFailure<'a> {
    command_id: &'a str,
    error: FailureError,
    #[serde(flatten)]
    output: Option<Output>,
    evidence_hash: Option<&'a str>,
    timings_us: &'a Timings,
}

#[derive(Debug, Serialize)]
struct FailureError {
    code: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct Output {
    stdout: String,
    stdout_encoding: &'static str,
    stderr: String,
    stderr_encoding: &'static str,
}

/// Durations in microseconds, in the order in which the phases follow.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timings {
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<BootTimings>,
    /// In the guest, from the request to the end of the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_guest: Option<u64>,
    /// On the host, from the call to the checked result.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip: Option<u64>,
    /// Boot, tool and shutdown.
    total: u64,
}

#[derive(Debug, Clone, Serialize)]
struct BootTimings {
    image: u64,
    memory: u64,
    kvm_setup: u64,
    kernel_load: u64,
    devices: u64,
    vcpus: u64,
    first_run: u64,
    to_ready: u64,
    handshake: u64,
    total: u64,
    guest_boot: u64,
}

impl<'a> Success<'a> {
    pub fn new(command_id: &'a str, outcome: &'a ToolOutcome, timings_us: &'a Timings) -> Self {
        Self {
            command_id,
            exit_code: outcome.exit_code,
            reason: outcome.reason,
            message: outcome.message.as_deref(),
            output: Output::new(&outcome.stdout, &outcome.stderr),
            stdout_bytes: outcome.stdout_total,
            stderr_bytes: outcome.stderr_total,
            truncated: outcome.stdout_truncated || outcome.stderr_truncated,
            stdout_truncated: outcome.stdout_truncated,
            stderr_truncated: outcome.stderr_truncated,
            evidence_hash: &outcome.evidence_hash,
            timings_us,
        }
    }
}

impl<'a> ExecFailure<'a> {
    pub fn new(command_id: &'a str, error: &'a SandboxError, timings_us: &'a Timings) -> Self {
        let partial = match error {
            SandboxError::ToolTimeout { partial, .. } => Some(partial),
            _ => None,
        };
        Self {
            command_id,
            error: FailureError { code: error.code(), message: error.to_string() },
            output: partial.map(|partial| Output::new(&partial.stdout, &partial.stderr)),
            evidence_hash: partial.and_then(|partial| partial.evidence_hash.as_deref()),
            timings_us,
        }
    }
}

impl Output {
    fn new(stdout: &[u8], stderr: &[u8]) -> Self {
        let (stdout, stdout_encoding) = encode(stdout);
        let (stderr, stderr_encoding) = encode(stderr);
        Self { stdout, stdout_encoding, stderr, stderr_encoding }
    }
}

/// Text where the bytes are text, base64 where they are not.
fn encode(bytes: &[u8]) -> (String, &'static str) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (STANDARD.encode(bytes), "base64"),
    }
}

impl Timings {
    pub fn new(boot: Option<&BootReport>, outcome: Option<&ToolOutcome>, total: Duration) -> Self {
        Self {
            boot: boot.map(BootTimings::new),
            in_guest: outcome.map(|outcome| micros(outcome.in_guest)),
            round_trip: outcome.map(|outcome| micros(outcome.round_trip)),
            total: micros(total),
        }
    }

    /// One line per phase.
    pub fn table(&self) -> String {
        let mut rows = Vec::new();
        if let Some(boot) = &self.boot {
            rows.extend([
                ("image", boot.image),
                ("machine: memory", boot.memory),
                ("machine: KVM", boot.kvm_setup),
                ("machine: kernel", boot.kernel_load),
                ("machine: devices", boot.devices),
                ("machine: vCPUs", boot.vcpus),
                ("machine: first run after", boot.first_run),
                ("guest ready after", boot.to_ready),
                ("handshake", boot.handshake),
                ("boot, total", boot.total),
            ]);
        }
        rows.extend(self.in_guest.map(|us| ("tool, in the guest", us)));
        rows.extend(self.round_trip.map(|us| ("tool, round trip", us)));
        rows.push(("everything", self.total));
        let mut table = Table::new();
        table.load_preset(NOTHING).force_no_tty();
        for (phase, us) in rows {
            table.add_row([phase.to_owned(), format!("{us} us")]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n")
    }
}

impl BootTimings {
    fn new(report: &BootReport) -> Self {
        let phase = |name| micros(report.machine.took(name));
        Self {
            image: micros(report.image),
            memory: phase("memory"),
            kvm_setup: phase("kvm_setup"),
            kernel_load: phase("kernel_load"),
            devices: phase("devices"),
            vcpus: phase("vcpus"),
            first_run: phase("first_run"),
            to_ready: micros(report.to_ready),
            handshake: micros(report.handshake),
            total: micros(report.total),
            guest_boot: report.guest_boot_us,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> ToolOutcome {
        ToolOutcome {
            stderr: vec![0xff, 0x00],
            stderr_total: 2,
            stdout_total: 9,
            stdout_truncated: true,
            evidence_hash: "sha256:00".into(),
            in_guest: Duration::from_micros(5),
            round_trip: Duration::from_micros(7),
            ..ToolOutcome::of_stdout("c", 3, "text")
        }
    }

    #[test]
    fn the_json_form_of_a_result() {
        let outcome = outcome();
        let timings = Timings::new(None, Some(&outcome), Duration::from_micros(11));
        let json = serde_json::to_value(Success::new("c", &outcome, &timings)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "command_id": "c", "exit_code": 3, "reason": null, "message": null,
                "stdout": "text", "stdout_encoding": "utf-8",
                "stderr": "/wA=", "stderr_encoding": "base64",
                "stdout_bytes": 9, "stderr_bytes": 2, "truncated": true,
                "stdout_truncated": true, "stderr_truncated": false,
                "evidence_hash": "sha256:00",
                "timings_us": {"in_guest": 5, "round_trip": 7, "total": 11},
            })
        );
    }

    #[test]
    fn the_json_form_of_a_failure() {
        let timings = Timings::default();
        let error = SandboxError::NotAvailable { reason: "no KVM".into() };
        let json = serde_json::to_value(ExecFailure::new("c", &error, &timings)).unwrap();
        assert_eq!(json["error"]["code"], "SANDBOX_NOT_AVAILABLE");
        assert_eq!(json["error"]["message"], "no KVM");
        assert!(json.get("stdout").is_none());
    }

    #[test]
    fn timings_are_a_line_each() {
        let outcome = outcome();
        let text = Timings::new(None, Some(&outcome), Duration::from_micros(11)).table();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("tool, round trip") && text.contains("7 us"), "{text}");
    }
}
