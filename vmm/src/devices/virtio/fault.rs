//! The latch of a device that has met a fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Interrupt;
use crate::devices::fault::{DeviceFault, FaultSink};

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
            // The machine is failed already; a second failure here has no one else to tell.
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
