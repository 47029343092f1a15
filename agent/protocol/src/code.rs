//! Error codes of the protocol.

use std::fmt;

use serde::{Serialize, Serializer};

/// Codes this agent may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The signature, its algorithm or its key is not acceptable.
    SignatureInvalid,
    /// The envelope was used before.
    NonceReplay,
    /// No room to remember another envelope.
    NonceCacheFull,
    /// The envelope's time is over, or its life is longer than allowed.
    EnvelopeExpired,
    /// The envelope's time has not come.
    EnvelopeFutureDated,
    /// The envelope is for another endpoint or tenant.
    WrongAudience,
    /// No such tool here.
    ToolNotRegistered,
    /// The frame has the wrong shape.
    SchemaInvalid,
    /// The frame belongs to another session.
    SessionStale,
    /// No sandbox is free, and the queue is full.
    SandboxNotReady,
    /// The machine could not be reset.
    ResetFailed,
    /// The machine was reset, and what was seen of it disagrees.
    ResetVerificationDivergence,
    /// The machine was reset, and not all of it could be seen.
    ResetVerificationTimeout,
    /// The agent takes no commands since it found a machine in a wrong state.
    IntegrityMonitorTripped,
    /// The tool failed.
    SandboxToolError,
    /// The tool's deadline passed.
    SandboxToolTimeout,
    /// A fault of the agent.
    Internal,
    /// A rule of this endpoint forbids the command.
    PolicyDenied,
    /// The code that the sandbox gave its error.
    SandboxOther(&'static str),
}

impl ErrorCode {
    /// The code on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SignatureInvalid => "ENDPOINT_SIGNATURE_INVALID",
            Self::NonceReplay => "ENDPOINT_NONCE_REPLAY",
            Self::NonceCacheFull => "ENDPOINT_NONCE_CACHE_FULL",
            Self::EnvelopeExpired => "ENDPOINT_ENVELOPE_EXPIRED",
            Self::EnvelopeFutureDated => "ENDPOINT_ENVELOPE_FUTURE_DATED",
            Self::WrongAudience => "ENDPOINT_WRONG_AUDIENCE",
            Self::ToolNotRegistered => "ENDPOINT_TOOL_NOT_REGISTERED",
            Self::SchemaInvalid => "ENDPOINT_SCHEMA_INVALID",
            Self::SessionStale => "ENDPOINT_SESSION_STALE",
            Self::SandboxNotReady => "ENDPOINT_SANDBOX_NOT_READY",
            Self::ResetFailed => "ENDPOINT_RESET_FAILED",
            Self::ResetVerificationDivergence => "ENDPOINT_RESET_VERIFICATION_DIVERGENCE",
            Self::ResetVerificationTimeout => "ENDPOINT_RESET_VERIFICATION_TIMEOUT",
            Self::IntegrityMonitorTripped => "ENDPOINT_INTEGRITY_MONITOR_TRIPPED",
            Self::SandboxToolError => "SANDBOX_TOOL_ERROR",
            Self::SandboxToolTimeout => "SANDBOX_TOOL_TIMEOUT",
            Self::Internal => "SYSTEM_INTERNAL_ERROR",
            Self::PolicyDenied => "ENDPOINT_POLICY_DENIED",
            Self::SandboxOther(code) => code,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode as Code;

    #[test]
    fn codes_are_those_of_the_protocol() {
        // In the order of the protocol's own table; the last three are not in it.
        for (code, text) in [
            (Code::SignatureInvalid, "ENDPOINT_SIGNATURE_INVALID"),
            (Code::NonceReplay, "ENDPOINT_NONCE_REPLAY"),
            (Code::NonceCacheFull, "ENDPOINT_NONCE_CACHE_FULL"),
            (Code::EnvelopeExpired, "ENDPOINT_ENVELOPE_EXPIRED"),
            (Code::EnvelopeFutureDated, "ENDPOINT_ENVELOPE_FUTURE_DATED"),
            (Code::WrongAudience, "ENDPOINT_WRONG_AUDIENCE"),
            (Code::ToolNotRegistered, "ENDPOINT_TOOL_NOT_REGISTERED"),
            (Code::SchemaInvalid, "ENDPOINT_SCHEMA_INVALID"),
            (Code::SessionStale, "ENDPOINT_SESSION_STALE"),
            (Code::SandboxNotReady, "ENDPOINT_SANDBOX_NOT_READY"),
            (Code::ResetFailed, "ENDPOINT_RESET_FAILED"),
            (Code::ResetVerificationDivergence, "ENDPOINT_RESET_VERIFICATION_DIVERGENCE"),
            (Code::IntegrityMonitorTripped, "ENDPOINT_INTEGRITY_MONITOR_TRIPPED"),
            (Code::SandboxToolError, "SANDBOX_TOOL_ERROR"),
            (Code::SandboxToolTimeout, "SANDBOX_TOOL_TIMEOUT"),
            (Code::Internal, "SYSTEM_INTERNAL_ERROR"),
            (Code::ResetVerificationTimeout, "ENDPOINT_RESET_VERIFICATION_TIMEOUT"),
            (Code::PolicyDenied, "ENDPOINT_POLICY_DENIED"),
            (Code::SandboxOther("SANDBOX_VSOCK_CLOSED"), "SANDBOX_VSOCK_CLOSED"),
        ] {
            assert_eq!(code.to_string(), text);
            assert_eq!(serde_json::to_value(code).unwrap(), text);
        }
    }
}
