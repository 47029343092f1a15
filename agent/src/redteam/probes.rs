//! Every probe there is.

mod egress;
mod injection;
mod time_bomb;

use super::Probe;

/// All probes, in the order in which they run.
pub fn all() -> Vec<Probe> {
    vec![
        egress::AS_A_TOOL,
        egress::AS_ROOT,
        injection::PROBE,
        time_bomb::AS_A_TOOL,
        time_bomb::AS_ROOT,
    ]
}
