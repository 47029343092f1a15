//! What goes on behind the calls: resets on worker threads, and a keeper that makes and ends
//! machines.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::SandboxSource;
use super::error::PoolError;
use super::metrics::PoolCounters;
use super::pressure::{Pressure, PressureLevel};
use super::slots::Turn;
use super::state::{Chore, Scrub, State};
use crate::{ResetOutcome, Sandbox, SandboxError, VerifiedReset};

/// For one look at an idle machine.
const SCRUB_FOR: Duration = Duration::from_millis(1);

/// What callers and threads of a pool share.
pub struct Shared {
    state: Mutex<State<dyn Sandbox>>,
    source: Box<dyn SandboxSource>,
    pressure: Box<dyn Pressure>,
    /// There is a dirty machine.
    dirty: Condvar,
    /// There may be something for the keeper to do.
    chores: Condvar,
    /// Machines changed their states.
    changed: Condvar,
}

impl Shared {
    pub fn new(
        state: State<dyn Sandbox>,
        source: Box<dyn SandboxSource>,
        pressure: Box<dyn Pressure>,
    ) -> Self {
        let (dirty, chores, changed) = (Condvar::new(), Condvar::new(), Condvar::new());
        Self { state: Mutex::new(state), source, pressure, dirty, chores, changed }
    }

    pub fn lock(&self) -> MutexGuard<'_, State<dyn Sandbox>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the keeper look again.
    pub fn wake_keeper(&self) {
        self.chores.notify_all();
    }

    /// Takes a clean machine, or waits for one.
    pub fn acquire(
        &self,
        tenant: &str,
        deadline_ms: i64,
        begun: Instant,
    ) -> Result<Lease<'_>, PoolError> {
        let tenant: Arc<str> = Arc::from(tenant);
        let until = super::after(begun, deadline_ms);
        let mut state = self.lock();
        state.usable()?;
        if deadline_ms <= 0 {
            state.counters.expired += 1;
            return Err(PoolError::DeadlinePassed { deadline_ms, waited: begun.elapsed() });
        }
        if let Some(taken) = state.take(&tenant) {
            let starved = state.needs_keeper();
            drop(state);
            if starved {
                self.wake_keeper();
            }
            return Ok(Lease::new(self, taken));
        }
        let Some(waiter) = state.join(&tenant) else {
            return Err(PoolError::QueueFull { waiting: state.queue.len() });
        };
        self.wake_keeper();
        self.changed.notify_all();
        let result = loop {
            if state.closed {
                break Err(PoolError::ShutDown);
            }
            let usable = state.usable();
            if let Some(taken) = state.collect(waiter.id) {
                if let Err(error) = usable {
                    // It is unused: it goes back like any other.
                    drop(state);
                    drop(Lease::new(self, taken));
                    state = self.lock();
                    break Err(error);
                }
                break Ok(taken);
            }
            if let Err(error) = usable {
                break Err(error);
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                state.counters.expired += 1;
                break Err(PoolError::DeadlinePassed { deadline_ms, waited: begun.elapsed() });
            }
            state = wait(&waiter.wake, state, until);
        };
        state.queue.leave(waiter.id);
        state.counters.waits.add(begun.elapsed());
        drop(state);
        result.map(|taken| Lease::new(self, taken))
    }

    /// Marks a used machine as dirty. False when it is no longer the pool's.
    fn begin_reset(&self, turn: Turn, leave_it_to_a_worker: bool) -> bool {
        let mut state = self.lock();
        let begun = state.begin_reset(turn);
        let starved = state.needs_keeper();
        if begun && leave_it_to_a_worker {
            state.dirty.push_back(turn);
        }
        drop(state);
        if leave_it_to_a_worker {
            self.dirty.notify_one();
        }
        if starved {
            self.wake_keeper();
        }
        begun
    }

    /// Resets a machine that is marked as dirty. It is clean afterwards, or gone.
    fn reset(&self, turn: Turn) -> Result<ResetOutcome, SandboxError> {
        let machine = self.lock().slots.resetting(turn).ok_or_else(taken_away)?;
        let result = shielded(|| machine.reset())
            .unwrap_or_else(|reason| Err(SandboxError::ResetFailed { reason }));
        // The next one to have it must be the only one.
        drop(machine);
        match &result {
            Ok(_) => {
                let mut state = self.lock();
                let unwanted = state.finish_reset(turn, Instant::now());
                self.tell_all(state);
                if let Some(machine) = unwanted {
                    self.end_at(turn.index, machine);
                }
            }
            Err(error) => {
                warn!(code = error.code(), %error, "a machine of the pool could not be reset");
                self.evict(turn, &error.to_string(), |counters| counters.failed_resets += 1);
            }
        }
        result
    }

    /// Resets and verifies a machine that is marked as dirty. It is dirty still: a worker resets it
    /// once more. One that does not pass is gone.
    fn reset_and_verify(&self, turn: Turn) -> Result<VerifiedReset, SandboxError> {
        let machine = self.lock().slots.resetting(turn).ok_or_else(taken_away)?;
        let result = shielded(|| machine.reset_and_verify())
            .unwrap_or_else(|reason| Err(SandboxError::ResetFailed { reason }));
        // The next one to have it must be the only one.
        drop(machine);
        match &result {
            Ok(verified) if verified.verification.passed() => {
                let mut state = self.lock();
                state.counters.verified += 1;
                state.dirty.push_back(turn);
                drop(state);
                self.dirty.notify_one();
            }
            Ok(verified) => {
                let reason = verified.verification.failure().unwrap_or_default();
                self.evict(turn, &reason, |counters| counters.failed_verifications += 1);
            }
            Err(error) => {
                warn!(code = error.code(), %error, "a machine of the pool could not be verified");
                self.evict(turn, &error.to_string(), |counters| counters.failed_resets += 1);
            }
        }
        self.unless_taken_away(result)
    }

    /// A machine that was ended by its owner while it was reset has not failed.
    fn unless_taken_away(
        &self,
        result: Result<VerifiedReset, SandboxError>,
    ) -> Result<VerifiedReset, SandboxError> {
        let closed = self.lock().closed;
        let passed = result.as_ref().is_ok_and(|verified| verified.verification.passed());
        if closed && !passed { Err(taken_away()) } else { result }
    }

    /// Ends a machine that was being reset. A reader that sees it counted sees what follows from it, a
    /// halted pool above all.
    fn evict(&self, turn: Turn, reason: &str, count: fn(&mut PoolCounters)) {
        let mut state = self.lock();
        count(&mut state.counters);
        let lost = state.fail_reset(turn, reason);
        drop(state);
        // There may be room for another one before this one has ended.
        self.wake_keeper();
        match lost {
            Some(machine) => self.end_at(turn.index, machine),
            None => self.tell_all(self.lock()),
        }
    }

    /// Ends a machine that is no longer used; its slot is free then.
    fn end_at(&self, index: usize, machine: Arc<dyn Sandbox>) {
        end(&*machine);
        drop(machine);
        let mut state = self.lock();
        state.ended(index);
        self.tell_all(state);
    }

    /// Uses no machine any more.
    pub fn halt(&self, reason: &str) {
        self.lock().halt(reason);
        self.changed.notify_all();
    }

    /// Serves again, with new machines.
    pub fn resume(&self) {
        let unwanted = self.lock().resume();
        for (index, machine) in unwanted {
            self.end_at(index, machine);
        }
        self.wake_keeper();
    }

    /// Lets those look who wait for machines to change their states.
    fn tell_all(&self, state: MutexGuard<'_, State<dyn Sandbox>>) {
        let starved = state.needs_keeper();
        drop(state);
        self.changed.notify_all();
        if starved {
            self.wake_keeper();
        }
    }

    /// Ends the machines of all calls under way.
    pub fn abort_calls(&self) -> usize {
        let taken = self.lock().abort();
        let count = taken.len();
        for (index, machine) in taken {
            end(&*machine);
            drop(machine);
            self.lock().ended(index);
        }
        self.wake_keeper();
        self.changed.notify_all();
        count
    }

    /// Resets machines until the pool is shut down, and looks at idle ones meanwhile.
    pub fn reset_dirty_machines(&self) {
        loop {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            if let Some(turn) = state.dirty.pop_front() {
                drop(state);
                // A failure has been dealt with.
                let _ = self.reset(turn);
                continue;
            }
            match state.scrub(Instant::now()) {
                Scrub::Now(turn, machine) => {
                    drop(state);
                    self.scrub(turn, machine);
                }
                Scrub::At(moment) => drop(wait(&self.dirty, state, moment)),
            }
        }
    }

    /// Looks at a machine until its time is over or a call wants one.
    fn scrub(&self, turn: Turn, machine: Arc<dyn Sandbox>) {
        let until = Instant::now() + SCRUB_FOR;
        let found = loop {
            let found = shielded(|| machine.scrub());
            let goes_on = matches!(found, Ok(None)) && Instant::now() < until;
            if !goes_on || self.lock().is_wanted() {
                break found;
            }
        };
        // The next one to have it must be the only one.
        drop(machine);
        match found {
            Ok(None) => {
                let mut state = self.lock();
                let unwanted = state.finish_scrub(turn);
                self.tell_all(state);
                if let Some(machine) = unwanted {
                    self.end_at(turn.index, machine);
                }
            }
            Ok(Some(verification)) => {
                let reason = verification.failure().unwrap_or_default();
                self.evict(turn, &reason, |counters| counters.failed_verifications += 1);
            }
            Err(reason) => self.evict(turn, &reason, |_| ()),
        }
    }

    /// Makes and ends machines until the pool is shut down.
    pub fn keep(&self) {
        loop {
            let chore = {
                let mut state = self.lock();
                if state.closed {
                    return;
                }
                match state.chore(Instant::now()) {
                    Chore::Wait(until) => {
                        drop(wait(&self.chores, state, until));
                        continue;
                    }
                    chore => chore,
                }
            };
            match chore {
                Chore::Make => self.make(),
                Chore::End(index, machine) => {
                    info!("memory is short: ending an idle machine of the pool");
                    end(&*machine);
                    drop(machine);
                    self.lock().ended(index);
                }
                Chore::LookAtMemory => self.look_at_memory(),
                Chore::Wait(_) => {}
            }
            self.changed.notify_all();
        }
    }

    fn make(&self) {
        let (generation, recapture) = {
            let state = self.lock();
            (state.generation, state.recapture)
        };
        let made = shielded(|| {
            if recapture {
                self.source.recapture()?;
            }
            self.source.make()
        });
        match made.and_then(|made| made.map_err(|error| error.to_string())) {
            Ok(machine) => {
                let mut state = self.lock();
                if state.generation == generation {
                    state.recapture = false;
                }
                let unwanted = state.made(machine, generation).err();
                drop(state);
                if let Some(machine) = unwanted {
                    end(&*machine);
                }
            }
            Err(reason) => {
                warn!(%reason, "no machine could be made for the pool");
                self.lock().not_made(reason, Instant::now());
            }
        }
    }

    /// Sees how short of memory the host is.
    pub fn look_at_memory(&self) {
        let level = shielded(|| self.pressure.level()).unwrap_or(PressureLevel::None);
        self.lock().saw_memory(level, Instant::now());
    }

    /// Waits until `done`, at most until that moment. True when it is done.
    pub fn wait_for(
        &self,
        until: Option<Instant>,
        done: impl Fn(&State<dyn Sandbox>) -> bool,
    ) -> bool {
        let mut state = self.lock();
        while !done(&state) {
            if until.is_some_and(|until| until <= Instant::now()) {
                return false;
            }
            state = wait(&self.changed, state, until);
        }
        true
    }

    /// Ends every machine and wakes every waiting call and worker.
    pub fn close(&self) {
        let machines = self.lock().close();
        self.dirty.notify_all();
        self.chores.notify_all();
        self.changed.notify_all();
        for machine in &machines {
            end(&**machine);
        }
    }
}

/// A machine that belongs to one call.
pub struct Lease<'a> {
    // Dropped in this order: who gives the slot back must not have the machine any more.
    machine: Arc<dyn Sandbox>,
    slot: SlotGuard<'a>,
}

impl<'a> Lease<'a> {
    fn new(shared: &'a Shared, (turn, machine): (Turn, Arc<dyn Sandbox>)) -> Self {
        Self { machine, slot: SlotGuard { shared, turn, given_back: false } }
    }

    pub fn machine(&self) -> &dyn Sandbox {
        &*self.machine
    }

    /// Which slot of the pool the machine is in.
    pub fn index(&self) -> usize {
        self.slot.turn.index
    }

    /// Resets the machine on this thread. A lease that is dropped leaves that to a worker.
    pub fn reset(self) -> Result<ResetOutcome, SandboxError> {
        let (shared, turn) = self.give_back()?;
        shared.reset(turn)
    }

    /// Resets and verifies the machine on this thread. What is left to do is a worker's.
    pub fn reset_and_verify(self) -> Result<VerifiedReset, SandboxError> {
        let (shared, turn) = self.give_back()?;
        shared.reset_and_verify(turn)
    }

    /// Gives the machine back as one that this thread is about to reset.
    fn give_back(self) -> Result<(&'a Shared, Turn), SandboxError> {
        let Self { machine, mut slot } = self;
        drop(machine);
        slot.given_back = true;
        if slot.shared.begin_reset(slot.turn, false) {
            Ok((slot.shared, slot.turn))
        } else {
            Err(taken_away())
        }
    }
}

/// Gives the slot of a call's machine back when it is dropped.
struct SlotGuard<'a> {
    shared: &'a Shared,
    turn: Turn,
    given_back: bool,
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        if !self.given_back {
            self.shared.begin_reset(self.turn, true);
        }
    }
}

fn taken_away() -> SandboxError {
    SandboxError::TakenAway { reason: "its call was ended, or the pool was shut down" }
}

fn end(machine: &dyn Sandbox) {
    if let Err(reason) = shielded(|| machine.shutdown()) {
        warn!(%reason, "a machine of the pool did not end as it should");
    }
}

/// A panic in a machine must not cost the pool its thread.
fn shielded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let words = panic.downcast_ref::<&str>().copied();
        let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("panicked: {}", words.unwrap_or("no reason given"))
    })
}

fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    until: Option<Instant>,
) -> MutexGuard<'a, T> {
    let Some(until) = until else {
        return condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
    };
    let left = until.saturating_duration_since(Instant::now());
    condvar.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
}
