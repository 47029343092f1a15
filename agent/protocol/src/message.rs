//! Every frame between relay and endpoint.

mod inbound;
mod outbound;
mod result;

pub use guest::registry::Track;
pub use inbound::{EndpointHelloAck, Inbound, RelayError, RelayPing, RelayPong, classify};
pub use outbound::{
    AgentHealth, CommandAck, ConnectionProof, DEFAULT_FRAME_BYTES, EndpointHello, ErrorEvent,
    Frame, HealthPing, HealthPong, MAX_FRAME_BYTES, NO_COMMAND, Progress, ProgressEvent,
    ProgressState, WireState,
};
pub use result::{
    CommandResult, ErrorBody, IllegalResult, Lifecycle, ResultHead, SandboxResetState,
    VerificationDetails,
};

#[cfg(test)]
mod tests;
