//! Whatever happens in whatever order, the rules of a pool hold.

use proptest::prelude::*;

use super::super::queue::Waiter;
use super::super::slots::Turn;
use super::super::state::{Chore, State};
use super::*;

/// Something that happens. Numbers choose among what there is, modulo how many.
#[derive(Debug, Clone)]
enum Event {
    Arrive(u8),
    /// A call that waits takes what was put aside for it.
    Collect(usize),
    /// A call that waits loses patience.
    Leave(usize),
    Return(usize),
    Reset {
        which: usize,
        succeeds: bool,
    },
    /// Every machine is taken away from the call that has it.
    Abort,
    /// A call whose machine was taken away comes to its end.
    ReturnLate(usize),
    Ended(usize),
    Keep {
        make_succeeds: bool,
    },
    Pressure(u8),
    Time(u16),
    TryAgain,
    Halt,
    Resume,
}

fn event() -> impl Strategy<Value = Event> {
    use Event::*;
    prop_oneof![
        6 => (0u8..3).prop_map(Arrive),
        4 => any::<usize>().prop_map(Collect),
        1 => any::<usize>().prop_map(Leave),
        4 => any::<usize>().prop_map(Return),
        5 => (any::<usize>(), prop::bool::weighted(0.85))
            .prop_map(|(which, succeeds)| Reset { which, succeeds }),
        1 => Just(Abort),
        3 => any::<usize>().prop_map(ReturnLate),
        2 => any::<usize>().prop_map(Ended),
        6 => prop::bool::weighted(0.8).prop_map(|make_succeeds| Keep { make_succeeds }),
        1 => (0u8..3).prop_map(Pressure),
        1 => (0u16..3000).prop_map(Time),
        1 => Just(TryAgain),
        1 => Just(Halt),
        2 => Just(Resume),
    ]
}

/// The pool, and what its callers and threads would know.
struct Model {
    world: Arc<World>,
    state: State<Fake>,
    now: Instant,
    waiting: Vec<Waiter>,
    busy: Vec<(Turn, Arc<Fake>)>,
    resetting: Vec<Turn>,
    /// Calls whose machine was taken away, and that do not know.
    late: Vec<Turn>,
    ending: Vec<(usize, Arc<Fake>)>,
}

fn pick<T>(from: &mut Vec<T>, which: usize) -> Option<T> {
    if from.is_empty() { None } else { Some(from.swap_remove(which % from.len())) }
}

impl Model {
    fn new(config: PoolConfig) -> Self {
        let (waiting, busy, resetting) = (Vec::new(), Vec::new(), Vec::new());
        let (world, state, now) = (World::new(), State::new(config), Instant::now());
        let (late, ending) = (Vec::new(), Vec::new());
        Self { world, state, now, waiting, busy, resetting, late, ending }
    }

    fn given(&mut self, (turn, machine): (Turn, Arc<Fake>)) {
        machine.touch();
        self.busy.push((turn, machine));
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Arrive(tenant) => {
                if self.state.usable().is_err() {
                    return;
                }
                let tenant = Arc::from(format!("tenant-{tenant}"));
                match self.state.take(&tenant) {
                    Some(taken) => self.given(taken),
                    None => self.waiting.extend(self.state.join(&tenant)),
                }
            }
            Event::Collect(which) => {
                let Some(waiter) = pick(&mut self.waiting, which) else { return };
                match self.state.collect(waiter.id) {
                    Some(taken) => self.given(taken),
                    None => self.waiting.push(waiter),
                }
            }
            Event::Leave(which) => {
                let Some(waiter) = pick(&mut self.waiting, which) else { return };
                match self.state.collect(waiter.id) {
                    Some(taken) => self.given(taken),
                    None => self.state.queue.leave(waiter.id),
                }
            }
            Event::Return(which) => {
                let Some((turn, machine)) = pick(&mut self.busy, which) else { return };
                drop(machine);
                assert!(self.state.begin_reset(turn));
                self.resetting.push(turn);
            }
            Event::Reset { which, succeeds } => {
                let Some(turn) = pick(&mut self.resetting, which) else { return };
                if succeeds {
                    let machine = self.state.slots.resetting(turn).unwrap();
                    machine.reset().unwrap();
                    drop(machine);
                    let unwanted = self.state.finish_reset(turn, self.now);
                    self.ending.extend(unwanted.map(|machine| (turn.index, machine)));
                } else {
                    let machine = self.state.fail_reset(turn, "no").unwrap();
                    self.ending.push((turn.index, machine));
                }
            }
            Event::Abort => {
                // What was put aside is taken first: its caller may be on the way.
                for waiter in std::mem::take(&mut self.waiting) {
                    match self.state.collect(waiter.id) {
                        Some(taken) => self.given(taken),
                        None => self.waiting.push(waiter),
                    }
                }
                let taken = self.state.abort();
                assert_eq!(taken.len(), self.busy.len());
                self.ending.extend(taken);
                self.late.extend(self.busy.drain(..).map(|(turn, _)| turn));
            }
            Event::ReturnLate(which) => {
                let Some(turn) = pick(&mut self.late, which) else { return };
                // Whatever stands in its place by now belongs to another call.
                assert!(!self.state.begin_reset(turn));
                assert!(self.state.slots.resetting(turn).is_none());
                assert!(self.state.finish_reset(turn, self.now).is_none());
                assert!(self.state.fail_reset(turn, "late").is_none());
            }
            Event::Ended(which) => {
                let Some((index, machine)) = pick(&mut self.ending, which) else { return };
                machine.shutdown();
                self.state.ended(index);
            }
            Event::Keep { make_succeeds } => self.keep(make_succeeds),
            Event::Pressure(level) => {
                let level = [PressureLevel::None, PressureLevel::Some, PressureLevel::High]
                    [usize::from(level)];
                self.state.saw_memory(level, self.now);
            }
            Event::Time(ms) => self.now += Duration::from_millis(ms.into()),
            Event::TryAgain => self.state.try_again(),
            Event::Halt => {
                self.state.halt("as the test wanted");
                assert!(self.state.usable().is_err());
            }
            Event::Resume => {
                let unwanted = self.state.resume();
                self.ending.extend(unwanted);
            }
        }
    }

    fn keep(&mut self, make_succeeds: bool) {
        match self.state.chore(self.now) {
            Chore::Make if make_succeeds => {
                let machine = Arc::new(FakeSource(Arc::clone(&self.world)).fake().unwrap());
                assert!(
                    self.state.made(machine, self.state.generation).is_ok(),
                    "made without a place for it"
                );
            }
            Chore::Make => self.state.not_made("no".into(), self.now),
            Chore::End(index, machine) => self.ending.push((index, machine)),
            Chore::LookAtMemory => self.state.saw_memory(PressureLevel::Some, self.now),
            Chore::Wait(until) => assert!(until.is_none_or(|until| until > self.now)),
        }
    }

    fn check(&self) {
        self.state.check();
        let counts = self.state.slots.counts();
        assert_eq!(counts.resetting, self.resetting.len());
        assert_eq!(counts.ending, self.ending.len());
        let set_aside = self.waiting.len() - self.state.queue.len();
        assert_eq!(counts.busy, self.busy.len() + set_aside);
        assert!(self.state.slots.existing() <= self.state.config.machines);
    }

    /// Lets everything come to its end, without anything failing any more.
    fn settle(&mut self) {
        self.happen(&Event::Resume);
        self.state.try_again();
        self.state.saw_memory(PressureLevel::None, self.now);
        for turn in 0..1000 {
            for event in [
                Event::Keep { make_succeeds: true },
                Event::Collect(turn),
                Event::Return(0),
                Event::Reset { which: 0, succeeds: true },
                Event::Ended(0),
            ] {
                self.happen(&event);
                self.check();
            }
        }
    }
}

proptest! {
    #[test]
    fn the_rules_hold_whatever_happens(
        machines in 1usize..5,
        queue in 0usize..5,
        per_tenant in 0usize..3,
        spare in 0usize..5,
        refill_retries in 0u32..3,
        events in prop::collection::vec(event(), 0..200),
    ) {
        let config = PoolConfig {
            queue,
            per_tenant,
            spare: spare.min(machines),
            refill_retries,
            refill_backoff: Duration::from_millis(100),
            ..PoolConfig::new(machines)
        };
        let spare = config.spare;
        let mut model = Model::new(config);
        for event in &events {
            model.happen(event);
            model.check();
        }
        model.settle();
        prop_assert_eq!(model.waiting.len(), 0, "a call waits for ever");
        prop_assert!(model.state.slots.counts().clean >= spare);
        for machine in model.state.close() {
            machine.shutdown();
        }
        drop(model.state);
        model.world.assert_clean();
    }
}
