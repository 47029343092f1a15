//! Which machines there are, and who may have them.
//!
//! A machine goes round one way only: clean, busy, resetting, and clean again. There is no other
//! way to become clean, and only a clean machine can be taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::metrics::MachineCounts;

/// A place for a machine.
enum Slot<S: ?Sized> {
    /// Nothing there.
    Gone,
    /// Reset, or made a moment ago, and untouched since.
    Clean(Arc<S>),
    /// Given to a call.
    Busy { tenant: Arc<str>, machine: Arc<S> },
    /// Used, and on its way back to its golden state; or looked at for a moment.
    Resetting(Arc<S>),
    /// Given up; it still holds memory until its shutdown is over.
    Ending(Arc<S>),
}

/// One use of a machine, from when it is taken until it is clean again or gone. Whoever wants to change what
/// becomes of the machine has to show it: a call whose machine was taken away must not speak for the one
/// that took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The place of the machine.
    pub index: usize,
    /// Different for each turn of a place.
    ticket: u64,
}

/// All places for machines.
pub struct Slots<S: ?Sized> {
    places: Vec<Slot<S>>,
    counts: MachineCounts,
    /// Busy machines of each tenant that has any.
    tenants: BTreeMap<Arc<str>, usize>,
    /// Number of the turn that each place is in, or had last.
    tickets: Vec<u64>,
    /// Places whose machines are not to be used again after the present call.
    distrusted: Vec<bool>,
}

impl<S: ?Sized> Slots<S> {
    /// Empty places.
    pub fn new(places: usize) -> Self {
        let counts = MachineCounts { gone: places, ..MachineCounts::default() };
        let (distrusted, tickets) = (vec![false; places], vec![0; places]);
        let places = (0..places).map(|_| Slot::Gone).collect();
        Self { places, counts, tenants: BTreeMap::new(), tickets, distrusted }
    }

    /// Machines by state.
    pub fn counts(&self) -> MachineCounts {
        self.counts
    }

    /// Machines that hold memory, whatever their state.
    pub fn existing(&self) -> usize {
        self.places.len() - self.counts.gone
    }

    /// Busy machines of each tenant that has any.
    pub fn tenants(&self) -> &BTreeMap<Arc<str>, usize> {
        &self.tenants
    }

    /// How many machines a tenant uses.
    pub fn busy_of(&self, tenant: &str) -> usize {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    /// Gives a clean machine to a tenant. The first ones are preferred: with little to do, the
    /// same few machines stay warm in the caches.
    pub fn take(&mut self, tenant: &Arc<str>) -> Option<(Turn, Arc<S>)> {
        let index = self.places.iter().position(|slot| matches!(slot, Slot::Clean(_)))?;
        let machine = self.take_at(index, tenant)?;
        Some((self.next_turn(index)?, machine))
    }

    fn next_turn(&mut self, index: usize) -> Option<Turn> {
        let ticket = self.tickets.get_mut(index)?;
        *ticket = ticket.wrapping_add(1);
        Some(Turn { index, ticket: *ticket })
    }

    /// The place of a turn that is not over.
    fn place(&mut self, turn: Turn) -> Option<&mut Slot<S>> {
        let is_current = self.tickets.get(turn.index) == Some(&turn.ticket);
        if is_current { self.places.get_mut(turn.index) } else { None }
    }

    /// Gives one machine to a tenant, if it is clean.
    fn take_at(&mut self, index: usize, tenant: &Arc<str>) -> Option<Arc<S>> {
        let slot = self.places.get_mut(index)?;
        let Slot::Clean(machine) = slot else { return None };
        let machine = Arc::clone(machine);
        *slot = Slot::Busy { tenant: Arc::clone(tenant), machine: Arc::clone(&machine) };
        self.counts.clean -= 1;
        self.counts.busy += 1;
        *self.tenants.entry(Arc::clone(tenant)).or_default() += 1;
        // The machine's last reference but the pool's own was given back before it was clean.
        debug_assert_eq!(Arc::strong_count(&machine), 2, "another thread still has the machine");
        Some(machine)
    }

    /// The call is over: the machine is dirty, and its tenant no longer has it. False when the
    /// machine has been taken away in the meantime.
    pub fn begin_reset(&mut self, turn: Turn) -> bool {
        let Some(slot) = self.place(turn) else { return false };
        match std::mem::replace(slot, Slot::Gone) {
            Slot::Busy { tenant, machine } => {
                *slot = Slot::Resetting(machine);
                self.counts.busy -= 1;
                self.counts.resetting += 1;
                self.forget_busy(&tenant);
                true
            }
            other => {
                *slot = other;
                false
            }
        }
    }

    /// Takes an idle machine out of use to look at it: the next one behind `after`, round and round.
    /// It comes back like one that was reset.
    pub fn take_for_scrub(&mut self, after: usize) -> Option<(Turn, Arc<S>)> {
        let count = self.places.len();
        let index = (1..=count)
            .map(|step| after.wrapping_add(step) % count)
            .find(|index| matches!(self.places.get(*index), Some(Slot::Clean(_))))?;
        let slot = self.places.get_mut(index)?;
        let Slot::Clean(machine) = slot else { return None };
        let machine = Arc::clone(machine);
        *slot = Slot::Resetting(Arc::clone(&machine));
        self.counts.clean -= 1;
        self.counts.resetting += 1;
        Some((self.next_turn(index)?, machine))
    }

    /// The machine that is to be reset.
    pub fn resetting(&mut self, turn: Turn) -> Option<Arc<S>> {
        match self.place(turn) {
            Some(Slot::Resetting(machine)) => Some(Arc::clone(machine)),
            _ => None,
        }
    }

    /// The reset succeeded. A machine that was not being reset stays what it is, and this says no.
    pub fn finish_reset(&mut self, turn: Turn) -> bool {
        let Some(slot) = self.place(turn) else { return false };
        match std::mem::replace(slot, Slot::Gone) {
            Slot::Resetting(machine) => {
                *slot = Slot::Clean(machine);
                self.counts.resetting -= 1;
                self.counts.clean += 1;
                true
            }
            other => {
                *slot = other;
                false
            }
        }
    }

    /// The reset failed: the machine is never handed out again.
    pub fn fail_reset(&mut self, turn: Turn) -> Option<Arc<S>> {
        let slot = self.place(turn)?;
        let Slot::Resetting(machine) = slot else { return None };
        let machine = Arc::clone(machine);
        *slot = Slot::Ending(Arc::clone(&machine));
        self.counts.resetting -= 1;
        self.counts.ending += 1;
        Some(machine)
    }

    /// Uses no machine that is there again: those in use end after their calls.
    pub fn distrust(&mut self) {
        for (distrusted, slot) in self.distrusted.iter_mut().zip(&self.places) {
            *distrusted = matches!(slot, Slot::Busy { .. } | Slot::Resetting(_));
        }
    }

    /// The machine there is not to be used again.
    pub fn is_distrusted(&self, index: usize) -> bool {
        self.distrusted.get(index).copied().unwrap_or_default()
    }

    /// Takes an idle machine out of use, so that its memory can be given back.
    pub fn end_clean(&mut self) -> Option<(usize, Arc<S>)> {
        let index = self.places.iter().rposition(|slot| matches!(slot, Slot::Clean(_)))?;
        let slot = self.places.get_mut(index)?;
        let Slot::Clean(machine) = slot else { return None };
        let machine = Arc::clone(machine);
        *slot = Slot::Ending(Arc::clone(&machine));
        self.counts.clean -= 1;
        self.counts.ending += 1;
        Some((index, machine))
    }

    /// Takes every machine away from the call that has it.
    pub fn end_busy(&mut self) -> Vec<(usize, Arc<S>)> {
        let mut ended = Vec::new();
        for (index, slot) in self.places.iter_mut().enumerate() {
            if let Slot::Busy { tenant, machine } = slot {
                ended.push((index, Arc::clone(tenant), Arc::clone(machine)));
                *slot = Slot::Ending(Arc::clone(machine));
            }
        }
        self.counts.busy -= ended.len();
        self.counts.ending += ended.len();
        let mut machines = Vec::with_capacity(ended.len());
        for (index, tenant, machine) in ended {
            self.forget_busy(&tenant);
            machines.push((index, machine));
        }
        machines
    }

    /// The shutdown is over: the place is free.
    pub fn ended(&mut self, index: usize) {
        if let Some(slot @ Slot::Ending(_)) = self.places.get_mut(index) {
            *slot = Slot::Gone;
            self.counts.ending -= 1;
            self.counts.gone += 1;
        }
    }

    /// Puts a new machine into a free place. Gives it back when there is none.
    pub fn install(&mut self, machine: Arc<S>) -> Result<usize, Arc<S>> {
        let free = self.places.iter().position(|slot| matches!(slot, Slot::Gone));
        let Some((index, slot)) = free.and_then(|i| Some((i, self.places.get_mut(i)?))) else {
            return Err(machine);
        };
        *slot = Slot::Clean(machine);
        if let Some(distrusted) = self.distrusted.get_mut(index) {
            *distrusted = false;
        }
        self.counts.gone -= 1;
        self.counts.clean += 1;
        Ok(index)
    }

    /// Empties every place, also those whose machine is in use.
    pub fn clear(&mut self) -> Vec<Arc<S>> {
        let emptied = Self::new(self.places.len());
        let before = std::mem::replace(self, emptied);
        before
            .places
            .into_iter()
            .filter_map(|slot| match slot {
                Slot::Gone => None,
                Slot::Clean(machine)
                | Slot::Busy { machine, .. }
                | Slot::Resetting(machine)
                | Slot::Ending(machine) => Some(machine),
            })
            .collect()
    }

    fn forget_busy(&mut self, tenant: &Arc<str>) {
        if let Some(busy) = self.tenants.get_mut(tenant) {
            *busy -= 1;
            if *busy == 0 {
                self.tenants.remove(tenant);
            }
        }
    }

    /// What the counters should say, counted anew.
    #[cfg(test)]
    pub fn recount(&self) -> (MachineCounts, BTreeMap<Arc<str>, usize>) {
        let mut counts = MachineCounts::default();
        let mut tenants = BTreeMap::new();
        for slot in &self.places {
            match slot {
                Slot::Gone => counts.gone += 1,
                Slot::Clean(_) => counts.clean += 1,
                Slot::Busy { tenant, .. } => {
                    counts.busy += 1;
                    *tenants.entry(Arc::clone(tenant)).or_default() += 1;
                }
                Slot::Resetting(_) => counts.resetting += 1,
                Slot::Ending(_) => counts.ending += 1,
            }
        }
        (counts, tenants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> (Slots<u8>, Arc<str>) {
        let mut slots = Slots::new(1);
        slots.install(Arc::new(7)).unwrap();
        (slots, Arc::from("t"))
    }

    #[test]
    fn only_a_clean_machine_can_be_taken() {
        let (mut slots, tenant) = one();
        let (turn, machine) = slots.take(&tenant).unwrap();
        drop(machine);
        let refused = |slots: &mut Slots<u8>, state: &str| {
            assert!(slots.take(&tenant).is_none(), "{state}");
            assert!(slots.take_at(0, &tenant).is_none(), "{state}");
        };
        refused(&mut slots, "busy");
        assert!(slots.begin_reset(turn));
        refused(&mut slots, "resetting");
        drop(slots.fail_reset(turn).unwrap());
        refused(&mut slots, "ending");
        slots.ended(0);
        refused(&mut slots, "gone");
        assert_eq!(slots.counts(), slots.recount().0);
    }

    #[test]
    fn nothing_but_a_reset_makes_a_machine_clean() {
        let (mut slots, tenant) = one();
        let (turn, machine) = slots.take(&tenant).unwrap();
        drop(machine);
        assert!(!slots.finish_reset(turn), "it was never reset");
        assert!(slots.end_clean().is_none());
        slots.ended(0);
        assert_eq!(slots.install(Arc::new(8)), Err(Arc::new(8)));
        assert_eq!(slots.counts().busy, 1);
        assert!(slots.begin_reset(turn));
        assert!(!slots.begin_reset(turn), "twice");
        assert!(slots.finish_reset(turn));
        assert!(slots.take(&tenant).is_some());
    }

    /// The place is the same, the machine and the call are not.
    #[test]
    fn a_call_that_lost_its_machine_does_not_speak_for_the_next_one() {
        let (mut slots, tenant) = one();
        let (lost, machine) = slots.take(&tenant).unwrap();
        drop(machine);
        assert_eq!(slots.end_busy().len(), 1);
        slots.ended(0);
        slots.install(Arc::new(8)).unwrap();
        let (turn, machine) = slots.take(&tenant).unwrap();
        drop(machine);
        assert_eq!(lost.index, turn.index);
        assert!(!slots.begin_reset(lost), "the machine is another call's");
        assert!(slots.begin_reset(turn));
        assert!(slots.resetting(lost).is_none() && slots.fail_reset(lost).is_none());
        assert!(!slots.finish_reset(lost));
        assert!(slots.finish_reset(turn));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "another thread still has the machine")]
    fn a_machine_that_is_still_held_is_noticed() {
        let (mut slots, tenant) = one();
        let (turn, _kept) = slots.take(&tenant).unwrap();
        slots.begin_reset(turn);
        slots.finish_reset(turn);
        let _ = slots.take(&tenant);
    }
}
