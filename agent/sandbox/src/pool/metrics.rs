//! What a pool has done and what it is doing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// A pool at one moment. Counters run from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PoolMetrics {
    /// Machines by state.
    pub machines: MachineCounts,
    /// Calls that wait for a machine now.
    pub queued: usize,
    /// Memory is short, so the pool keeps itself small.
    pub under_pressure: bool,
    /// Why the last attempt to make a machine failed; `None` when it did not. More attempts follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortage: Option<String>,
    /// Machines each tenant uses now.
    pub tenants: BTreeMap<String, usize>,
    /// What happened until now.
    #[serde(flatten)]
    pub counters: PoolCounters,
}

/// Places for machines, by what is in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MachineCounts {
    /// Ready for any tenant.
    pub clean: usize,
    /// Given to a call.
    pub busy: usize,
    /// On their way back to the golden state.
    pub resetting: usize,
    /// Given up, and being shut down.
    pub ending: usize,
    /// Places without a machine.
    pub gone: usize,
}

/// What a pool has done since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PoolCounters {
    /// Calls that were given to a machine.
    pub calls: u64,
    /// Time calls spent in the queue.
    pub waits: WaitMetrics,
    /// Resets that succeeded.
    pub resets: u64,
    /// Resets that failed; each one cost a machine.
    pub failed_resets: u64,
    /// Machines that passed their verification.
    pub verified: u64,
    /// Machines that did not, because a source disagreed or was silent; each one was ended.
    pub failed_verifications: u64,
    /// Looks at idle machines.
    pub scrubs: u64,
    /// Machines that were made, the first ones included.
    pub refills: u64,
    /// Attempts to make a machine that failed.
    pub failed_refills: u64,
    /// Idle machines that were shut down because memory was short.
    pub shrinks: u64,
    /// Calls that were refused because the queue was full.
    pub queue_full: u64,
    /// Calls whose deadline passed before they had a machine.
    pub expired: u64,
}

/// Time calls spent in the queue, whatever became of them. A call that found a machine at once was
/// never in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WaitMetrics {
    /// How many waited.
    pub count: u64,
    /// All of them together, in microseconds.
    pub total_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

impl WaitMetrics {
    /// One more call left the queue.
    pub fn add(&mut self, waited: Duration) {
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.total_us = self.total_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_add_up() {
        let mut waits = WaitMetrics::default();
        for ms in [2, 5, 1] {
            waits.add(Duration::from_millis(ms));
        }
        assert_eq!(waits, WaitMetrics { count: 3, total_us: 8000, max_us: 5000 });
    }

    #[test]
    fn metrics_are_one_flat_object() {
        let json = serde_json::to_value(PoolMetrics::default()).unwrap();
        assert_eq!(json["machines"]["clean"], 0);
        assert_eq!(json["waits"]["max_us"], 0);
        assert_eq!(json["queue_full"], 0);
    }
}
