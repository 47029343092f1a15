//! Faults: what a guest did that a device cannot recover from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

use super::Interrupt;

/// Why a device stopped. The embedding program sees it as the machine's failure.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
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
    /// A descriptor chain breaks the device's request format in a way that leaves no one to answer.
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

/// One device's failure latch: once raised, the device is stopped and the driver sees
/// `DEVICE_NEEDS_RESET` (section 2.1.2).
pub struct FaultLatch {
    raised: AtomicBool,
    interrupt: Arc<Interrupt>,
    sink: FaultSink,
}

impl FaultLatch {
    /// A latch that has not been raised.
    pub fn new(interrupt: Arc<Interrupt>, sink: FaultSink) -> Self {
        Self { raised: AtomicBool::new(false), interrupt, sink }
    }

    /// Latches the fault. Only the first one since the last clear is reported to the sink.
    pub fn raise(&self, fault: &DeviceFault) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            (self.sink)(fault);
            // The machine is failed already; a second failure here has nobody else to tell.
            let _ = self.interrupt.signal_config();
        }
    }

    /// True from the first fault until the driver resets the device.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Forgets the fault: the driver has reset the device. The sink keeps what it was told.
    pub fn clear(&self) {
        self.raised.store(false, Ordering::Release);
    }
}
