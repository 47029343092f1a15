//! How large a pool may be.

use std::time::Duration;

use thiserror::Error;

/// Most machines of one pool.
pub const MAX_MACHINES: usize = 256;
/// Longest pause between two attempts to make a machine, however often it failed.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How a pool is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Most machines at once, 1 to 256.
    pub machines: usize,
    /// How many calls may wait for a machine. With none, a call that finds no machine is refused.
    pub queue: usize,
    /// Most machines one tenant uses at once; 0 for no limit.
    pub per_tenant: usize,
    /// Most memory all machines together may come to use.
    pub memory_limit_bytes: Option<u64>,
    /// Machines kept warm beyond those in use, as far as `machines` allows. Fewer save memory,
    /// and cost a call the time to make one.
    pub spare: usize,
    /// How often the pool tries again when a machine cannot be made, before callers without a machine are
    /// told so. It goes on trying, every `refill_every`.
    pub refill_retries: u32,
    /// Pause before the first such attempt; every later one is twice as long.
    pub refill_backoff: Duration,
    /// How often a machine is tried to be made after the retries, for as long as it takes.
    pub refill_every: Duration,
    /// What follows when a machine cannot be reset or does not pass its verification.
    pub on_fault: OnFault,
    /// How often an idle machine is looked at for a millisecond ([`Sandbox::scrub`]); never with
    /// `None`, nor where calls cannot wait for one that long.
    ///
    /// [`Sandbox::scrub`]: crate::Sandbox::scrub
    pub scrub_every: Option<Duration>,
}

/// What a pool does when a machine cannot be reset or does not pass its verification. Whatever
/// it is, that machine is ended and never used again.
///
/// Who also wants to know what was wrong, or to keep it on disk, gives the sandboxes a
/// [`IncidentHandler`](crate::IncidentHandler).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFault {
    /// The machine gets a successor and the pool serves on: for those who look at every result
    /// themselves.
    #[default]
    Replace,
    /// No machine is used any more, see [`Pool::halted`](super::Pool::halted): what reached one
    /// may have reached others.
    Halt,
}

impl PoolConfig {
    /// A pool of that many machines, all of them kept warm, that replaces one that fails.
    pub fn new(machines: usize) -> Self {
        Self {
            machines,
            queue: 64,
            per_tenant: 0,
            memory_limit_bytes: None,
            spare: machines,
            refill_retries: 5,
            refill_backoff: Duration::from_millis(100),
            refill_every: MAX_BACKOFF,
            on_fault: OnFault::default(),
            scrub_every: None,
        }
    }

    /// Refuses what cannot be.
    pub(super) fn check(&self, bytes_per_machine: u64) -> Result<(), LimitError> {
        let Self { machines, spare, .. } = *self;
        if machines == 0 {
            return Err(LimitError::NoMachines);
        }
        if machines > MAX_MACHINES {
            return Err(LimitError::TooManyMachines { machines });
        }
        if spare > machines {
            return Err(LimitError::SpareExceedsMachines { spare, machines });
        }
        let Some(limit) = self.memory_limit_bytes else { return Ok(()) };
        let needed = (machines as u64).saturating_mul(bytes_per_machine);
        if needed > limit {
            let fits = limit / bytes_per_machine;
            return Err(LimitError::MoreThanMemory {
                machines,
                bytes_per_machine,
                needed,
                limit,
                fits,
            });
        }
        Ok(())
    }

    /// The pause after `failures` failures in a row.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        self.refill_backoff.saturating_mul(1 << doublings).min(MAX_BACKOFF)
    }
}

/// Why a pool cannot be set up like that.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitError {
    /// A pool of nothing.
    #[error("a pool needs at least one machine")]
    NoMachines,
    /// More than a pool can have.
    #[error("{machines} machines are too many: a pool has at most {MAX_MACHINES}")]
    TooManyMachines {
        /// How many were wanted.
        machines: usize,
    },
    /// More to keep warm than there can be.
    #[error("{spare} machines cannot be kept warm in a pool of {machines}")]
    SpareExceedsMachines {
        /// How many were to be kept warm.
        spare: usize,
        /// How many there can be.
        machines: usize,
    },
    /// The machines could come to use more memory than they may.
    #[error(
        "{machines} machines of {bytes_per_machine} bytes can need {needed} bytes, and the limit \
         is {limit}: {fits} machines fit"
    )]
    MoreThanMemory {
        /// How many were wanted.
        machines: usize,
        /// What one may need.
        bytes_per_machine: u64,
        /// What all may need.
        needed: u64,
        /// What they may have.
        limit: u64,
        /// How many may be had.
        fits: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_pool_has_between_one_machine_and_256() {
        assert_eq!(PoolConfig::new(0).check(MIB), Err(LimitError::NoMachines));
        assert_eq!(PoolConfig::new(1).check(MIB), Ok(()));
        assert_eq!(PoolConfig::new(256).check(MIB), Ok(()));
        let error = PoolConfig::new(257).check(MIB).unwrap_err();
        assert_eq!(error, LimitError::TooManyMachines { machines: 257 });
        assert!(error.to_string().contains("257") && error.to_string().contains("256"));
    }

    #[test]
    fn more_than_memory_allows_is_refused_with_the_numbers() {
        let limit = |limit| PoolConfig { memory_limit_bytes: Some(limit), ..PoolConfig::new(4) };
        assert_eq!(limit(4 * MIB).check(MIB), Ok(()));
        let error = limit(4 * MIB - 1).check(MIB).unwrap_err().to_string();
        for number in ["4 machines", "1048576", "4194304", "4194303", "3 machines fit"] {
            assert!(error.contains(number), "{error}");
        }
        assert!(limit(u64::MAX - 1).check(u64::MAX).is_err());
        assert_eq!(limit(0).check(0), Ok(()));
    }

    #[test]
    fn more_cannot_be_kept_warm_than_there_are() {
        let config = PoolConfig { spare: 3, ..PoolConfig::new(2) };
        let error = config.check(MIB).unwrap_err();
        assert_eq!(error, LimitError::SpareExceedsMachines { spare: 3, machines: 2 });
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let config = PoolConfig { refill_backoff: Duration::from_secs(1), ..PoolConfig::new(1) };
        let pauses: Vec<_> = (1..=7).map(|n| config.backoff(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(config.backoff(u32::MAX).as_secs(), 30);
    }
}
