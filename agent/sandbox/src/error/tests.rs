use guest::wire::ErrorCode;

use super::super::channel::EvidenceFault;
use super::*;

fn code(error: impl Into<SandboxError>) -> &'static str {
    error.into().code()
}

#[test]
fn every_error_has_the_protocols_code() {
    let text = || "x".to_owned();
    let evidence = |fault| code(ChannelError::Evidence { command_id: "c".into(), fault });
    let refused = |with| code(ChannelError::Refused { code: with, message: "m".into() });
    let table = [
        (code(SandboxError::NotAvailable { reason: text() }), "SANDBOX_NOT_AVAILABLE"),
        (
            code(SandboxError::QuerySilent { query: text(), limit: Duration::ZERO }),
            "SANDBOX_NOT_AVAILABLE",
        ),
        (code(SandboxError::BootFailed { reason: text(), console: vec![] }), "SANDBOX_BOOT_FAILED"),
        (
            code(SandboxError::ToolTimeout {
                deadline_ms: 1,
                stopped_by: StoppedBy::Guest,
                partial: Box::default(),
            }),
            "SANDBOX_TOOL_TIMEOUT",
        ),
        (
            code(SandboxError::MachineStopped { reason: text(), console: vec![] }),
            "SANDBOX_VSOCK_CLOSED",
        ),
        (code(ChannelError::Closed { detail: text() }), "SANDBOX_VSOCK_CLOSED"),
        (code(ChannelError::CutShort), "SANDBOX_FRAME_MALFORMED"),
        (code(ChannelError::Malformed), "SANDBOX_FRAME_MALFORMED"),
        (
            code(ChannelError::InboundTooLarge { announced: 2, limit: 1 }),
            "SANDBOX_VSOCK_FRAME_TOO_LARGE",
        ),
        (
            code(ChannelError::OutboundTooLarge { size: 2, limit: 1 }),
            "SANDBOX_VSOCK_FRAME_TOO_LARGE",
        ),
        (
            code(ChannelError::Stalled { limit: Duration::ZERO }),
            "SANDBOX_VSOCK_PARTIAL_FRAME_TIMEOUT",
        ),
        (code(ChannelError::WriteStalled { sent: 1 }), "SANDBOX_VSOCK_PARTIAL_FRAME_TIMEOUT"),
        (code(ChannelError::DuplicateRequest { id: text() }), "SANDBOX_VSOCK_DUPLICATE_REQUEST"),
        (code(ChannelError::Protocol { detail: text() }), "SANDBOX_VSOCK_PROTOCOL_ERROR"),
        (
            code(ChannelError::NotFresh { id: text(), detail: text() }),
            "SANDBOX_VSOCK_PROTOCOL_ERROR",
        ),
        (refused(ErrorCode::ToolBusy), "SANDBOX_NOT_AVAILABLE"),
        (refused(ErrorCode::DuplicateCommandId), "SANDBOX_VSOCK_DUPLICATE_REQUEST"),
        (refused(ErrorCode::FrameMalformed), "SANDBOX_VSOCK_PROTOCOL_ERROR"),
        (refused(ErrorCode::FrameTooLarge), "SANDBOX_VSOCK_FRAME_TOO_LARGE"),
        (code(ChannelError::TimedOut { id: text() }), "SANDBOX_TOOL_TIMEOUT"),
        (evidence(EvidenceFault::Gap { expected: 1, found: 2 }), "SANDBOX_EVIDENCE_GAP"),
        (evidence(EvidenceFault::Duplicate { seq: 1 }), "SANDBOX_EVIDENCE_DUPLICATE"),
        (
            evidence(EvidenceFault::OutOfOrder { last: 3, found: 1 }),
            "SANDBOX_EVIDENCE_OUT_OF_ORDER",
        ),
        (evidence(EvidenceFault::TooLarge { size: 2, limit: 1 }), "SANDBOX_FRAME_TOO_LARGE"),
        (evidence(EvidenceFault::Malformed(text())), "SANDBOX_EVIDENCE_MALFORMED"),
        (
            evidence(EvidenceFault::Mismatch { claimed: text(), computed: text() }),
            "SANDBOX_EVIDENCE_MISMATCH",
        ),
    ];
    for (index, (found, expected)) in table.into_iter().enumerate() {
        assert_eq!(found, expected, "row {index}");
    }
}

#[test]
fn a_failed_boot_shows_the_console() {
    let console = vec!["VFS: cannot mount root".to_owned(), "panic".to_owned()];
    let error = SandboxError::BootFailed { reason: "the guest panicked".into(), console };
    assert_eq!(
        error.to_string(),
        "the machine did not become ready: the guest panicked\n\
         last lines of the guest's console:\n  VFS: cannot mount root\n  panic"
    );
    let silent = SandboxError::BootFailed { reason: "no answer".into(), console: vec![] };
    assert_eq!(silent.to_string(), "the machine did not become ready: no answer");
}
