//! A pool of warm machines: every call gets a clean one, never a used one.
//!
//! A machine serves one call and is reset before the next. The reset runs on a thread of the pool,
//! so a call waits for one only when no other machine is clean.

mod error;
mod limits;
mod metrics;
mod pressure;
mod queue;
mod slots;
mod state;
mod thread_start;
mod worker;

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{
    ResetOutcome, Sandbox, SandboxError, ToolCall, ToolOutcome, Verification, VerifiedReset,
};
use state::State;
use worker::Shared;

pub use error::{PoolError, Refused};
pub use limits::{LimitError, MAX_MACHINES, OnFault, PoolConfig};
pub use metrics::{MachineCounts, PoolCounters, PoolMetrics, WaitMetrics};
pub use pressure::{MemoryPressure, Pressure, PressureLevel};
pub use thread_start::at_pool_thread_start;

/// Makes the machines of a pool.
pub trait SandboxSource: Send + Sync {
    /// A sandbox that is ready and unused.
    ///
    /// # Errors
    ///
    /// The sandbox cannot be made or does not become ready.
    fn make(&self) -> Result<Arc<dyn Sandbox>, SandboxError>;

    /// The most memory one of them may come to use.
    fn bytes_per_machine(&self) -> u64;

    /// Forgets whatever machines are made from, and begins anew: those made so far are not to be
    /// trusted any more. Called before the first machine after [`Pool::resume`].
    ///
    /// # Errors
    ///
    /// The origin of the machines cannot be read or does not become ready.
    fn recapture(&self) -> Result<(), SandboxError> {
        Ok(())
    }
}

/// How a pool treats a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// Return only when the machine that ran the call has been reset, and tell how that went. A
    /// result that is to be vouched for needs it.
    pub wait_for_reset: bool,
    /// Return only when the machine that ran the call has been reset and verified, and tell what
    /// the verification found; the reset that undoes the verification's own traces is not waited
    /// for. The machines must be able to verify themselves. Makes `wait_for_reset` superfluous.
    pub verify: bool,
}

/// What became of a call that had a machine.
#[derive(Debug)]
pub struct PooledOutcome {
    /// What the machine made of it.
    pub result: Result<ToolOutcome, SandboxError>,
    /// How that machine's reset went, if the call asked to wait for it. A machine that could not
    /// be reset is gone. Of a call that asked for a verification only a reset that succeeded is
    /// here: why it did not is what came of the verification.
    pub reset: Option<Result<ResetOutcome, SandboxError>>,
    /// What the verification of that machine found, if the call asked for it; an error when it
    /// could not even be reset. A machine that did not pass is gone.
    pub verification: Option<Result<Verification, SandboxError>>,
    /// How long the call waited for a machine.
    pub waited: Duration,
    /// Which place of the pool the machine had, from zero.
    pub machine: usize,
}

/// Machines that are ready before they are asked for. Any number of threads may use it at once.
///
/// Dropping it shuts it down.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts a pool that shrinks when the host's memory is short. It fills up in the background:
    /// calls may come at once, and [`Pool::wait_until_warm`] waits for the machines.
    ///
    /// # Errors
    ///
    /// The configuration has a value out of its range, or the host starts no thread.
    pub fn start(
        source: impl SandboxSource + 'static,
        config: PoolConfig,
    ) -> Result<Self, PoolError> {
        Self::start_with_pressure(source, config, MemoryPressure::default())
    }

    /// Starts a pool that asks `pressure` when to shrink.
    ///
    /// # Errors
    ///
    /// As for [`Self::start`].
    pub fn start_with_pressure(
        source: impl SandboxSource + 'static,
        config: PoolConfig,
        pressure: impl Pressure + 'static,
    ) -> Result<Self, PoolError> {
        config.check(source.bytes_per_machine())?;
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let workers = config.machines.min(processors);
        let shared = Shared::new(State::new(config), Box::new(source), Box::new(pressure));
        let pool = Self { shared: Arc::new(shared), threads: Mutex::default() };
        pool.spawn("pool-keeper", Shared::keep)?;
        for _ in 0..workers {
            pool.spawn("pool-reset", Shared::reset_dirty_machines)?;
        }
        Ok(pool)
    }

    /// Runs one tool on a clean machine. Waits for one in the order of arrival, at most until the
    /// call's deadline; the time spent waiting is taken from what the tool may take. A tenant who
    /// has as many machines as one may have waits without holding up others.
    ///
    /// # Errors
    ///
    /// No machine has seen the call, for the reasons of [`Self::execute_with`].
    pub fn execute(&self, tenant: &str, call: ToolCall) -> Result<PooledOutcome, PoolError> {
        self.execute_with(tenant, call, CallOptions::default(), |_| Ok(()))
    }

    /// Runs a call with options. `may_begin` is asked when the call has its machine, and told which one,
    /// numbered from zero: when it agrees, the machine sees the call. It holds up this call only.
    ///
    /// # Errors
    ///
    /// No machine has seen the call: too many calls wait, the deadline passed, `may_begin` refused, the pool is
    /// halted, has shut down, or can make no machine.
    pub fn execute_with(
        &self,
        tenant: &str,
        mut call: ToolCall,
        options: CallOptions,
        may_begin: impl FnOnce(usize) -> Result<(), Refused>,
    ) -> Result<PooledOutcome, PoolError> {
        let begun = Instant::now();
        let lease = self.shared.acquire(tenant, call.deadline_ms, begun)?;
        let waited = begun.elapsed();
        let left = call.deadline_ms - i64::try_from(waited.as_millis()).unwrap_or(i64::MAX);
        {
            let counters = &mut self.shared.lock().counters;
            if left <= 0 {
                counters.expired += 1;
                let deadline_ms = call.deadline_ms;
                return Err(PoolError::DeadlinePassed { deadline_ms, waited });
            }
            counters.calls += 1;
        }
        call.deadline_ms = left;
        let machine = lease.index();
        if let Err(refused) = may_begin(machine) {
            // It has seen nothing of the call, and goes back like any other.
            drop(lease);
            return Err(refused.into());
        }
        let result = lease.machine().execute_tool(call);
        let (reset, verification) = if options.verify {
            match lease.reset_and_verify() {
                Ok(VerifiedReset { outcome, verification }) => {
                    (outcome.map(Ok), Some(Ok(verification)))
                }
                Err(error) => (None, Some(Err(error))),
            }
        } else {
            (options.wait_for_reset.then_some(lease).map(worker::Lease::reset), None)
        };
        Ok(PooledOutcome { result, reset, verification, waited, machine })
    }

    /// The most calls it has at once, those that wait included: one more is refused.
    pub fn most_calls(&self) -> usize {
        let state = self.shared.lock();
        state.config.machines.saturating_add(state.config.queue)
    }

    /// Waits until the pool has as many machines as it wants, or as many as it can make. Returns
    /// how many are clean, which may be fewer when the time is over.
    ///
    /// # Errors
    ///
    /// The pool is halted, has shut down, or could make no machine at all.
    pub fn wait_until_warm(&self, limit: Duration) -> Result<usize, PoolError> {
        self.shared.wait_for(Instant::now().checked_add(limit), State::is_warm);
        let state = self.shared.lock();
        state.usable()?;
        Ok(state.slots.counts().clean)
    }

    /// Tries again to make machines at once, for instance because the reason why none could be made is
    /// gone. The pool tries by itself every now and then ([`PoolConfig::refill_every`]).
    pub fn refill(&self) {
        self.shared.lock().try_again();
        self.shared.wake_keeper();
    }

    /// True when calls are refused: the pool was shut down or is halted, or there is no machine and the
    /// next attempt to make one is some time ahead.
    pub fn has_given_up(&self) -> bool {
        self.shared.lock().usable().is_err()
    }

    /// Why no machine is used any more: one could not be reset or did not pass its
    /// verification, and the pool was set up to halt then ([`OnFault::Halt`]), or the owner called
    /// [`Pool::halt`]. `None` while it serves.
    pub fn halted(&self) -> Option<Arc<str>> {
        self.shared.lock().halted.clone()
    }

    /// Uses no machine any more until [`Pool::resume`]. Calls that have a machine go on with it,
    /// those that wait for one are refused. Does nothing the second time.
    pub fn halt(&self, reason: &str) {
        self.shared.halt(reason);
    }

    /// Serves again after a halt, with new machines only: all that are there end, those in use
    /// after their calls. Does nothing unless it is halted.
    pub fn resume(&self) {
        self.shared.resume();
    }

    /// Takes the machines away from all calls under way, which fail, and makes new ones. Calls
    /// that wait for a machine go on waiting. Returns how many machines that were.
    pub fn abort_calls(&self) -> usize {
        self.shared.abort_calls()
    }

    /// Looks at the host's memory now and shrinks or grows. The pool does so by itself when
    /// machines come back, and every second while it is small; the owner of a pool that no call
    /// calls may want to do it from time to time.
    pub fn check_pressure(&self) {
        self.shared.look_at_memory();
        self.shared.wake_keeper();
    }

    /// What the pool has done and is doing.
    pub fn metrics(&self) -> PoolMetrics {
        self.shared.lock().metrics()
    }

    /// Ends it: those who wait are told, calls under way fail, every machine is gone and every
    /// thread has ended when this returns. Does nothing the second time.
    pub fn shutdown(&self) {
        self.shared.close();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // Nothing to be done about one that panicked.
            let _ = thread.join();
        }
    }

    fn spawn(&self, name: &str, work: fn(&Shared)) -> Result<(), PoolError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread
            .spawn(move || {
                thread_start::run();
                work(&shared);
            })
            .map_err(PoolError::Threads)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The moment a deadline ends; `None` when that is beyond all clocks.
fn after(begun: Instant, deadline_ms: i64) -> Option<Instant> {
    let deadline = Duration::from_millis(u64::try_from(deadline_ms).unwrap_or_default());
    begun.checked_add(deadline)
}

#[cfg(test)]
mod tests;
