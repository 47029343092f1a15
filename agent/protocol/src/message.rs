//! Every frame between relay and endpoint.

mod inbound;
mod outbound;
mod result;

pub use guest::registry::Track;
pub use inbound::{EndpointHelloAck, Inbound, RelayError, RelayPing, RelayPong, classify};
pub use outbound::{
    AgentHealth, CommandAck, ConnectionProof, EndpointHello, ErrorEvent, Frame, HealthPing,
    HealthPong, NO_COMMAND, Progress, ProgressEvent, ProgressState, WireState,
};
pub use result::{
    CommandResult, ErrorBody, IllegalResult, Lifecycle, ResultHead, SandboxResetState,
    VerificationDetails,
};

#[cfg(test)]
mod tests;
