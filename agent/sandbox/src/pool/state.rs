//! What a pool knows, and what follows from it. Nothing here blocks or touches a machine.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::PoolError;
use super::limits::{OnFault, PoolConfig};
use super::metrics::{PoolCounters, PoolMetrics};
use super::pressure::PressureLevel;
use super::queue::{Queue, Waiter};
use super::slots::{Slots, Turn};

/// Shortest time between two looks at the host's memory.
const PRESSURE_INTERVAL: Duration = Duration::from_secs(1);

/// What a pool knows.
pub struct State<S: ?Sized> {
    pub config: PoolConfig,
    pub slots: Slots<S>,
    pub queue: Queue,
    pub counters: PoolCounters,
    /// Dirty machines whose reset has not begun.
    pub dirty: VecDeque<Turn>,
    /// The pool was shut down.
    pub closed: bool,
    /// Why no machine is used any more.
    pub halted: Option<Arc<str>>,
    /// Machines are to be made from something new.
    pub recapture: bool,
    /// How often the pool has begun anew.
    pub generation: u64,
    /// Machines for calls that have not come to take them yet, by the number of the call.
    granted: HashMap<u64, (Turn, Arc<S>)>,
    refill: Refill,
    under_pressure: bool,
    looked_at_memory: Option<Instant>,
    /// Something happened that makes it worth to look at the host's memory.
    look_at_memory: bool,
    /// Not before then an idle machine is looked at.
    scrub_at: Option<Instant>,
    /// The one that was looked at last.
    scrubbed: usize,
}

/// How the making of machines goes.
#[derive(Default)]
struct Refill {
    /// In a row.
    failures: u32,
    /// Not before then.
    not_before: Option<Instant>,
    /// Why there is no machine, since the retries are used up: callers are told instead of being left to
    /// wait. Making one is tried all the same.
    gave_up: Option<String>,
    /// What happened at the last attempt, if it failed.
    failed: Option<String>,
}

/// What the keeper of a pool has to do.
pub enum Chore<S: ?Sized> {
    /// Make a machine.
    Make,
    /// Shut this one down.
    End(usize, Arc<S>),
    /// See how short of memory the host is.
    LookAtMemory,
    /// Nothing before that moment, or before something happens.
    Wait(Option<Instant>),
}

/// What an idle worker may look at.
pub enum Scrub<S: ?Sized> {
    /// This machine, for a moment.
    Now(Turn, Arc<S>),
    /// Nothing before that moment.
    At(Option<Instant>),
}

impl<S: ?Sized> State<S> {
    /// A pool without machines.
    pub fn new(config: PoolConfig) -> Self {
        Self {
            slots: Slots::new(config.machines),
            queue: Queue::new(config.queue),
            counters: PoolCounters::default(),
            dirty: VecDeque::new(),
            closed: false,
            halted: None,
            recapture: false,
            generation: 0,
            granted: HashMap::new(),
            refill: Refill::default(),
            under_pressure: false,
            looked_at_memory: None,
            look_at_memory: false,
            scrub_at: None,
            scrubbed: 0,
            config,
        }
    }

    /// Why no call can be served, now or later.
    pub fn usable(&self) -> Result<(), PoolError> {
        if self.closed {
            return Err(PoolError::ShutDown);
        }
        if let Some(reason) = &self.halted {
            return Err(PoolError::Halted { reason: reason.to_string() });
        }
        match &self.refill.gave_up {
            Some(reason) if self.slots.existing() == 0 && !self.may_try_now() => {
                Err(PoolError::NoMachine { reason: reason.clone() })
            }
            _ => Ok(()),
        }
    }

    /// A clean machine for a tenant who is below the limit. A call that waits already could not be
    /// served, or would have been.
    pub fn take(&mut self, tenant: &Arc<str>) -> Option<(Turn, Arc<S>)> {
        if self.may_have(tenant) { self.slots.take(tenant) } else { None }
    }

    /// Lets a call wait. `None` when the queue is full.
    pub fn join(&mut self, tenant: &Arc<str>) -> Option<Waiter> {
        let waiter = self.queue.join(tenant);
        if waiter.is_none() {
            self.counters.queue_full += 1;
        }
        waiter
    }

    /// The machine that was put aside for a call.
    pub fn collect(&mut self, id: u64) -> Option<(Turn, Arc<S>)> {
        self.granted.remove(&id)
    }

    /// Gives clean machines to those who wait. To be called whenever there may be more of them, or
    /// a tenant may have more.
    fn serve(&mut self) {
        if self.halted.is_some() {
            return;
        }
        while self.slots.counts().clean > 0 {
            let Some(waiter) = self.queue.first(|tenant| self.may_have(tenant)).cloned() else {
                return;
            };
            let Some(taken) = self.slots.take(&waiter.tenant) else { return };
            self.queue.leave(waiter.id);
            self.granted.insert(waiter.id, taken);
            waiter.wake.notify_all();
        }
    }

    /// A call is over. False when its machine is no longer the pool's.
    pub fn begin_reset(&mut self, turn: Turn) -> bool {
        let begun = self.slots.begin_reset(turn);
        self.serve();
        begun
    }

    /// A machine to look at, or the moment to ask again; `None` when no worker looks.
    pub fn scrub(&mut self, now: Instant) -> Scrub<S> {
        let Some(every) = self.config.scrub_every.filter(|_| self.config.queue > 0) else {
            return Scrub::At(None);
        };
        let due = *self.scrub_at.get_or_insert(now + every);
        if due > now {
            return Scrub::At(Some(due));
        }
        let next = now + every;
        self.scrub_at = Some(next);
        if self.halted.is_some() || self.is_wanted() {
            return Scrub::At(Some(next));
        }
        let Some((turn, machine)) = self.slots.take_for_scrub(self.scrubbed) else {
            return Scrub::At(Some(next));
        };
        self.scrubbed = turn.index;
        self.counters.scrubs += 1;
        Scrub::Now(turn, machine)
    }

    /// A call waits for a machine, or a machine for its reset.
    pub fn is_wanted(&self) -> bool {
        self.closed || self.queue.len() > 0 || !self.dirty.is_empty()
    }

    /// The look at a machine is over. Given back when it is not to be used again.
    pub fn finish_scrub(&mut self, turn: Turn) -> Option<Arc<S>> {
        let unwanted = self.slots.is_distrusted(turn.index).then(|| self.slots.fail_reset(turn));
        self.slots.finish_reset(turn);
        self.serve();
        unwanted.flatten()
    }

    /// A machine is back in its golden state. Given back when it is not to be used again.
    pub fn finish_reset(&mut self, turn: Turn, now: Instant) -> Option<Arc<S>> {
        self.counters.resets += 1;
        let unwanted = self.finish_scrub(turn);
        let looked = self.looked_at_memory;
        if looked.is_none_or(|then| now.saturating_duration_since(then) >= PRESSURE_INTERVAL) {
            self.look_at_memory = true;
        }
        unwanted
    }

    /// A machine could not be reset, or did not pass. Either it gets a successor, whatever
    /// happened to earlier ones, or no machine is used any more.
    pub fn fail_reset(&mut self, turn: Turn, reason: &str) -> Option<Arc<S>> {
        let lost = self.slots.fail_reset(turn)?;
        self.refill = Refill::default();
        if self.config.on_fault == OnFault::Halt {
            self.halt(reason);
        }
        Some(lost)
    }

    /// Uses no machine any more. The first reason stays.
    pub fn halt(&mut self, reason: &str) {
        if self.halted.is_none() && !self.closed {
            self.halted = Some(Arc::from(reason));
            self.queue.wake_all();
        }
    }

    /// Serves again, with machines that are made from now on. Gives back those that are idle.
    pub fn resume(&mut self) -> Vec<(usize, Arc<S>)> {
        if self.halted.take().is_none() {
            return Vec::new();
        }
        self.refill = Refill::default();
        self.recapture = true;
        self.generation += 1;
        self.slots.distrust();
        std::iter::from_fn(|| self.slots.end_clean()).collect()
    }

    /// Takes every machine away from the call that has it. A tenant who had as many as one may have can have
    /// another one then.
    pub fn abort(&mut self) -> Vec<(usize, Arc<S>)> {
        let taken = self.slots.end_busy();
        self.serve();
        taken
    }

    /// The shutdown of a machine is over.
    pub fn ended(&mut self, index: usize) {
        self.slots.ended(index);
        self.tell_if_unusable();
    }

    /// A new machine is there, whose making began in that generation. Gives it back when it is not
    /// wanted any more.
    pub fn made(&mut self, machine: Arc<S>, generation: u64) -> Result<(), Arc<S>> {
        if self.closed || generation != self.generation {
            return Err(machine);
        }
        self.slots.install(machine)?;
        self.counters.refills += 1;
        self.refill = Refill::default();
        self.serve();
        Ok(())
    }

    /// No machine could be made.
    pub fn not_made(&mut self, reason: String, now: Instant) {
        self.counters.failed_refills += 1;
        self.refill.failures = self.refill.failures.saturating_add(1);
        self.refill.failed = Some(reason.clone());
        let is_used_up = self.refill.failures > self.config.refill_retries;
        let pause = if is_used_up {
            self.config.refill_every
        } else {
            self.config.backoff(self.refill.failures)
        };
        self.refill.not_before = now.checked_add(pause);
        if is_used_up {
            self.refill.gave_up = Some(reason);
            self.tell_if_unusable();
        }
    }

    fn tell_if_unusable(&self) {
        if self.usable().is_err() {
            self.queue.wake_all();
        }
    }

    /// Whether the next attempt to make a machine need not wait.
    fn may_try_now(&self) -> bool {
        self.refill.not_before.is_none_or(|moment| moment <= Instant::now())
    }

    /// Tries to make machines again, without waiting for the next attempt.
    pub fn try_again(&mut self) {
        self.refill = Refill::default();
    }

    /// True when no machine is missing, or none will come.
    pub fn is_warm(&self) -> bool {
        self.closed || self.refill.gave_up.is_some() || !self.wants_machine()
    }

    /// False when the keeper would find nothing new to do.
    pub fn needs_keeper(&self) -> bool {
        self.look_at_memory || self.under_pressure || self.wants_machine()
    }

    /// What the keeper should do now.
    pub fn chore(&mut self, now: Instant) -> Chore<S> {
        if self.look_at_memory {
            return Chore::LookAtMemory;
        }
        let counts = self.slots.counts();
        if self.slots.existing() - counts.ending > self.ceiling()
            && let Some((index, machine)) = self.slots.end_clean()
        {
            self.counters.shrinks += 1;
            return Chore::End(index, machine);
        }
        let mut next = None;
        if self.wants_machine() {
            match self.refill.not_before.filter(|moment| *moment > now) {
                None => return Chore::Make,
                later => next = later,
            }
        }
        // Only while the pool is small there is something to find out without a call.
        if self.under_pressure {
            match self.looked_at_memory.and_then(|then| then.checked_add(PRESSURE_INTERVAL)) {
                Some(due) if due > now => next = Some(next.map_or(due, |next| due.min(next))),
                _ => return Chore::LookAtMemory,
            }
        }
        Chore::Wait(next)
    }

    /// The worker looked at the host's memory.
    pub fn saw_memory(&mut self, level: PressureLevel, now: Instant) {
        self.look_at_memory = false;
        self.looked_at_memory = Some(now);
        self.under_pressure = match level {
            PressureLevel::None => false,
            PressureLevel::Some => self.under_pressure,
            PressureLevel::High => true,
        };
    }

    /// Ends it all: gives back every machine, also those in use.
    pub fn close(&mut self) -> Vec<Arc<S>> {
        self.closed = true;
        self.dirty.clear();
        self.granted.clear();
        self.queue.wake_all();
        self.slots.clear()
    }

    /// What to tell others.
    pub fn metrics(&self) -> PoolMetrics {
        let tenants = self.slots.tenants();
        PoolMetrics {
            machines: self.slots.counts(),
            queued: self.queue.len(),
            under_pressure: self.under_pressure,
            shortage: self.refill.failed.clone(),
            tenants: tenants.iter().map(|(name, busy)| (name.to_string(), *busy)).collect(),
            counters: self.counters,
        }
    }

    /// Most machines at present. One stays, or no call could be served.
    fn ceiling(&self) -> usize {
        if self.under_pressure { 1 } else { self.config.machines }
    }

    fn wants_machine(&self) -> bool {
        let needed = || {
            self.slots.counts().clean < self.config.spare
                || self.queue.first(|tenant| self.may_have(tenant)).is_some()
        };
        let serves = !self.closed && self.halted.is_none();
        serves && self.slots.existing() < self.ceiling() && needed()
    }

    fn may_have(&self, tenant: &str) -> bool {
        let limit = self.config.per_tenant;
        limit == 0 || self.slots.busy_of(tenant) < limit
    }

    /// What must be true between any two steps.
    #[cfg(test)]
    pub fn check(&self) {
        let (counts, tenants) = self.slots.recount();
        assert_eq!((counts, &tenants), (self.slots.counts(), self.slots.tenants()));
        assert!(self.queue.len() <= self.config.queue);
        assert!(self.granted.len() <= counts.busy);
        for (tenant, busy) in &tenants {
            assert!(self.config.per_tenant == 0 || *busy <= self.config.per_tenant, "{tenant}");
        }
        let served = self.queue.first(|tenant| self.may_have(tenant)).is_none();
        let idle = self.closed || self.halted.is_some();
        assert!(counts.clean == 0 || served || idle, "a call waits for no reason");
    }
}
