//! Errors of the host side.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::limits::MAX_CONNECTIONS;

/// Why a host-side vsock operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VsockError {
    /// The machine is over. Nothing on this host handle will work again.
    #[error("the machine has stopped: {0}")]
    MachineStopped(Arc<str>),
    /// The guest does not listen on that port.
    #[error("the guest refused the connection to port {0}; check that its program listens there")]
    Refused(u32),
    /// The guest ended the connection without finishing it, or broke the protocol.
    #[error("the connection was reset; connect again")]
    Reset,
    /// The time allowed has passed.
    #[error("the guest did not answer in time")]
    TimedOut,
    /// This direction of the connection was closed before.
    #[error("the connection is closed for writing")]
    Closed,
    /// The machine went back to a state in which this connection does not exist.
    #[error("the connection does not exist in the machine's restored state; connect again")]
    Gone,
    /// Another listener has the port.
    #[error("host port {0} already has a listener; drop it first")]
    PortInUse(u32),
    /// The machine holds as many connections as it may.
    #[error("the machine has {limit} connections already; drop some first", limit = MAX_CONNECTIONS)]
    TooMany,
    /// A state with queues was given to a device whose driver has not started.
    #[error("the vsock device is not active; activate it before restoring its state")]
    NotActive,
    /// A state whose queues cannot exist.
    #[error("the vsock state has impossible queues; capture it again")]
    BadState,
}

impl From<VsockError> for io::Error {
    fn from(error: VsockError) -> Self {
        let kind = match error {
            VsockError::MachineStopped(_) | VsockError::Gone => io::ErrorKind::NotConnected,
            VsockError::Refused(_) => io::ErrorKind::ConnectionRefused,
            VsockError::Reset => io::ErrorKind::ConnectionReset,
            VsockError::TimedOut => io::ErrorKind::TimedOut,
            VsockError::Closed => io::ErrorKind::BrokenPipe,
            VsockError::PortInUse(_) => io::ErrorKind::AddrInUse,
            VsockError::TooMany => io::ErrorKind::QuotaExceeded,
            VsockError::NotActive | VsockError::BadState => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
