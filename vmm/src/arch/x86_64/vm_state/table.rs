//! The table of groups.

use super::group::VmGroup;
use super::{clock, irqchip, pit};

/// All groups, in the order in which they are read, written, compared and described.
///
/// The timer comes first: writing it waits for the tick that is on its way, which would otherwise
/// reach controllers that are back already.
pub const GROUPS: [VmGroup; 5] =
    [pit::GROUP, irqchip::PIC_MASTER, irqchip::PIC_SLAVE, irqchip::IO_APIC, clock::GROUP];
