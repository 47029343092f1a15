//! The built-in probes.

mod audit;
mod concurrency;
mod egress;
mod envelopes;
mod exhaustion;
mod files;
mod floods;
mod images;
mod injection;
mod latency;
mod machines;
mod naive_host;
mod persistence;
mod poison;
mod process;
mod reconnect;
mod restart;
mod served;
mod signer;
mod substrate;
mod tampered_command;
mod time_bomb;

use crate::probe::FnProbe;

/// All built-in probes, in the order in which they run.
pub fn all() -> Vec<FnProbe> {
    vec![
        egress::AS_A_TOOL,
        egress::AS_ROOT,
        files::AS_A_TOOL,
        files::AS_ROOT,
        process::AS_A_TOOL,
        process::AS_ROOT,
        exhaustion::PROBE,
        floods::PROBE,
        time_bomb::AS_A_TOOL,
        time_bomb::AS_ROOT,
        injection::PROBE,
        poison::PROBE,
        envelopes::PROBE,
        tampered_command::PROBE,
        audit::PROBE,
        persistence::PROBE,
        latency::BOOT,
        latency::RESET,
        latency::ROUND_TRIP,
        concurrency::PROBE,
        reconnect::PROBE,
        restart::PROBE,
        images::PROBE,
        substrate::LIES,
        substrate::GOLDEN,
    ]
}
