//! The table of groups.

use super::group::VcpuGroup;
use super::{
    debug, events, extended, general, local_apic, model_specific, run_state, special, tsc_group,
};

/// All groups, in the order in which they are read and written.
///
/// - The run state comes first. Reading it takes in INIT and SIPI interrupts that are on their way,
///   before anything else is read or written.
/// - XCR0 decides which parts of the extended state are valid, so it comes before that.
/// - The TSC and the timer's deadline, an MSR, are written before the local APIC: writing that
///   starts its timer again, and a deadline that has passed would interrupt the golden state.
/// - Writing general registers clears pending exceptions, so events come after them.
pub const GROUPS: [VcpuGroup; 10] = [
    run_state::GROUP,
    extended::CONTROL,
    extended::STATE,
    debug::GROUP,
    tsc_group::GROUP,
    model_specific::GROUP,
    local_apic::GROUP,
    special::GROUP,
    general::GROUP,
    events::GROUP,
];

/// All groups, in the order of comparisons and descriptions.
pub fn listed() -> [&'static VcpuGroup; GROUPS.len()] {
    const TABLE: &[VcpuGroup; GROUPS.len()] = &GROUPS;
    let mut groups = TABLE.each_ref();
    groups.sort_unstable_by_key(|group| group.listed);
    groups
}
