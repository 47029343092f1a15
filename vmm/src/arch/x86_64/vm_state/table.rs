//! The table of groups.

use super::group::Group;
use super::{clock, irqchip, pit};

/// All groups, in the order in which they are read, written, compared and described.
pub const GROUPS: [Group; 5] =
    [irqchip::PIC_MASTER, irqchip::PIC_SLAVE, irqchip::IO_APIC, pit::GROUP, clock::GROUP];
