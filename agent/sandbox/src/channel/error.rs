//! What can go wrong between host and guest program.

use std::time::Duration;

use guest::wire::ErrorCode;
use thiserror::Error;

/// A failure of the control connection, or of one command on it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChannelError {
    /// The connection is gone. Fatal.
    #[error("the control connection is closed: {detail}")]
    Closed {
        /// Who closed it and how.
        detail: String,
    },
    /// The connection ended inside a frame. Fatal.
    #[error("the guest closed the control connection in the middle of a frame")]
    CutShort,
    /// A frame of no bytes. Fatal.
    #[error("the guest sent a frame of no bytes")]
    Malformed,
    /// The guest announced a frame over the limit; nothing of it was read. Fatal.
    #[error("the guest announced a frame of {announced} bytes; the limit is {limit}")]
    InboundTooLarge {
        /// Length in the frame's header.
        announced: usize,
        /// Largest frame, in bytes.
        limit: usize,
    },
    /// A frame for the guest is over the limit; nothing of it was sent.
    #[error("the request takes {size} bytes on the wire, the limit is {limit}; shorten its params")]
    OutboundTooLarge {
        /// Size of the request, in bytes.
        size: usize,
        /// Largest frame, in bytes.
        limit: usize,
    },
    /// The guest stopped in the middle of a frame. Fatal.
    #[error("the guest sent a part of a frame and then nothing for {limit:?}")]
    Stalled {
        /// How long the channel waited.
        limit: Duration,
    },
    /// The guest stopped taking bytes in the middle of a frame. Fatal.
    #[error("the guest took {sent} bytes of a request and then no more before its deadline")]
    WriteStalled {
        /// Bytes the guest did take.
        sent: usize,
    },
    /// The id is in flight already.
    #[error("request {id} is in flight already; give every request an id of its own")]
    DuplicateRequest {
        /// The id.
        id: String,
    },
    /// The guest broke the protocol.
    #[error("the guest broke the protocol: {detail}")]
    Protocol {
        /// What it did.
        detail: String,
    },
    /// The guest refused one request and said why.
    #[error("the guest refused the request ({code:?}): {message}")]
    Refused {
        /// The guest's error code.
        code: ErrorCode,
        /// The guest's explanation.
        message: String,
    },
    /// A tool may have run with time or randomness another command had.
    #[error(
        "the guest did not confirm new time and randomness for command {id}: {detail}; its output \
         is not used, and the sandbox must be reset"
    )]
    NotFresh {
        /// The command.
        id: String,
        /// What the guest did instead.
        detail: String,
    },
    /// The output of one command cannot be trusted.
    #[error("evidence of {command_id}: {fault}")]
    Evidence {
        /// The command.
        command_id: String,
        /// What is wrong with its evidence.
        fault: EvidenceFault,
    },
    /// No reply in time.
    #[error("no reply to request {id} before its deadline")]
    TimedOut {
        /// The request.
        id: String,
    },
}

/// Why the evidence of a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvidenceFault {
    /// A chunk is missing.
    #[error("chunk {found} came where chunk {expected} was due")]
    Gap {
        /// Sequence number that was due.
        expected: u64,
        /// Sequence number that came.
        found: u64,
    },
    /// A chunk came twice in a row.
    #[error("chunk {seq} came twice")]
    Duplicate {
        /// Sequence number of the chunk.
        seq: u64,
    },
    /// A chunk from further back.
    #[error("chunk {found} came after chunk {last}")]
    OutOfOrder {
        /// Sequence number of the last good chunk.
        last: u64,
        /// Sequence number that came.
        found: u64,
    },
    /// A chunk is over the limit.
    #[error("a chunk of {size} bytes; the limit is {limit}")]
    TooLarge {
        /// Size of its data, in bytes.
        size: u64,
        /// Largest chunk, in bytes.
        limit: usize,
    },
    /// A chunk contradicts itself.
    #[error("{0}")]
    Malformed(String),
    /// The guest's claim is not what its chunks add up to.
    #[error("the guest claims {claimed}, its chunks say {computed}")]
    Mismatch {
        /// What the `ToolResult` says.
        claimed: String,
        /// What the chunks say.
        computed: String,
    },
}

impl ChannelError {
    /// The protocol's code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "SANDBOX_VSOCK_CLOSED",
            Self::CutShort | Self::Malformed => "SANDBOX_FRAME_MALFORMED",
            Self::InboundTooLarge { .. } | Self::OutboundTooLarge { .. } => {
                "SANDBOX_VSOCK_FRAME_TOO_LARGE"
            }
            Self::Stalled { .. } | Self::WriteStalled { .. } => {
                "SANDBOX_VSOCK_PARTIAL_FRAME_TIMEOUT"
            }
            Self::DuplicateRequest { .. } => "SANDBOX_VSOCK_DUPLICATE_REQUEST",
            Self::Protocol { .. } | Self::NotFresh { .. } => "SANDBOX_VSOCK_PROTOCOL_ERROR",
            Self::Refused { code, .. } => match code {
                ErrorCode::ToolBusy => "SANDBOX_NOT_AVAILABLE",
                ErrorCode::DuplicateCommandId => "SANDBOX_VSOCK_DUPLICATE_REQUEST",
                ErrorCode::FrameMalformed => "SANDBOX_VSOCK_PROTOCOL_ERROR",
                ErrorCode::FrameTooLarge => "SANDBOX_VSOCK_FRAME_TOO_LARGE",
            },
            Self::Evidence { fault, .. } => fault.code(),
            Self::TimedOut { .. } => "SANDBOX_TOOL_TIMEOUT",
        }
    }
}

impl EvidenceFault {
    /// The protocol's code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gap { .. } => "SANDBOX_EVIDENCE_GAP",
            Self::Duplicate { .. } => "SANDBOX_EVIDENCE_DUPLICATE",
            Self::OutOfOrder { .. } => "SANDBOX_EVIDENCE_OUT_OF_ORDER",
            Self::TooLarge { .. } => "SANDBOX_FRAME_TOO_LARGE",
            Self::Malformed(_) => "SANDBOX_EVIDENCE_MALFORMED",
            Self::Mismatch { .. } => "SANDBOX_EVIDENCE_MISMATCH",
        }
    }
}
