//! Faults: what a guest did that a device cannot recover from.

use std::sync::Arc;

use thiserror::Error;

/// Why a device stopped. The embedding program sees it as the machine's failure.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeviceFault {
    /// A ring could not be read or written, or its indices make no sense.
    #[error("{device} queue {queue}: broken ring: {reason}")]
    BrokenQueue {
        /// Device name.
        device: &'static str,
        /// Queue index.
        queue: u16,
        /// What was wrong.
        reason: String,
    },
    /// A descriptor chain breaks the device's request format and has no place for an answer.
    #[error("{device} queue {queue}: bad descriptor chain: {reason}")]
    BadChain {
        /// Device name.
        device: &'static str,
        /// Queue index.
        queue: u16,
        /// What was wrong.
        reason: String,
    },
    /// The host side failed: an interrupt could not be raised, random bytes could not be read.
    #[error("{device}: host error: {reason}")]
    Host {
        /// Device name.
        device: &'static str,
        /// What failed.
        reason: String,
    },
}

/// Told once per fault, on the thread that met it. Must not call back into the device.
pub type FaultSink = Arc<dyn Fn(&DeviceFault) + Send + Sync>;
