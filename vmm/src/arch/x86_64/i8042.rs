//! The one command of the keyboard controller that matters: pulling the reset line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Command port of the i8042.
const COMMAND_PORT: u16 = 0x64;
/// Pulse output line 0, which is wired to the processor's reset.
const RESET: u8 = 0xfe;

/// An i8042 without keyboard or mouse.
pub struct KeyboardController {
    reset: Arc<AtomicBool>,
}

impl KeyboardController {
    /// A controller that sets `reset` when the guest pulls the reset line.
    pub fn new(reset: Arc<AtomicBool>) -> Self {
        Self { reset }
    }

    /// First port of the controller's range.
    pub const FIRST_PORT: u16 = 0x60;
    /// Ports in the controller's range. Those in between belong to no device.
    pub const PORTS: u16 = COMMAND_PORT - Self::FIRST_PORT + 1;

    /// True when `port` is one of this device's registers. They read as zero, which says that the
    /// buffers are empty, so that no driver waits for them.
    pub fn owns(port: u16) -> bool {
        matches!(port, 0x60 | COMMAND_PORT)
    }

    /// Handles a write of `value` to `port`. Only the reset command has an effect.
    pub fn write(&self, port: u16, value: u8) {
        if port == COMMAND_PORT && value == RESET {
            self.reset.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let reset = Arc::new(AtomicBool::new(false));
        let controller = KeyboardController::new(Arc::clone(&reset));
        controller.write(0x60, RESET);
        controller.write(COMMAND_PORT, 0x20);
        assert!(!reset.load(Ordering::Acquire));
        controller.write(COMMAND_PORT, RESET);
        assert!(reset.load(Ordering::Acquire));
    }
}
