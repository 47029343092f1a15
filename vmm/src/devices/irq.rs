//! The line from a device to the guest's interrupt controller.

use std::io;

/// Something that can deliver an edge to the guest's interrupt controller.
pub trait IrqLine: Send + Sync {
    /// Raises and lowers the line. On return the interrupt controller has seen the edge.
    ///
    /// # Errors
    ///
    /// The interrupt controller cannot be reached.
    fn pulse(&self) -> io::Result<()>;
}
