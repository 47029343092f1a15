//! How machines come and go.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

const SOON: Duration = Duration::from_millis(1);

fn patient(machines: usize, retries: u32) -> PoolConfig {
    PoolConfig { refill_retries: retries, refill_backoff: SOON, ..PoolConfig::new(machines) }
}

fn refused(config: PoolConfig) -> PoolError {
    Pool::start(FakeSource(World::new()), config).err().unwrap()
}

#[test]
fn a_pool_that_cannot_be_is_refused() {
    let error = refused(PoolConfig::new(0));
    assert!(matches!(error, PoolError::Limits(LimitError::NoMachines)), "{error}");
    let error = refused(PoolConfig { memory_limit_bytes: Some(3 << 20), ..PoolConfig::new(4) });
    assert!(matches!(error, PoolError::Limits(LimitError::MoreThanMemory { fits: 3, .. })));
    assert!(error.to_string().contains("4194304"), "{error}");
}

#[test]
fn a_machine_that_cannot_be_reset_is_replaced() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(2));
    world.change(|facts| facts.failing_resets = 1);
    pool.execute("t", call("one")).unwrap();
    let metrics = until(&pool, |now| now.counters.refills == 3 && now.machines.clean == 2);
    assert_eq!((metrics.counters.failed_resets, metrics.counters.resets), (1, 0));
    assert_eq!(world.facts().made, 3);
    assert_eq!(world.facts().ended, 1);
    for id in ["two", "three", "four"] {
        assert_eq!(stdout(&pool.execute("t", call(id))), id);
    }
    world.assert_clean();
}

#[test]
fn making_is_tried_again_while_the_rest_serves() {
    let world = World::new();
    let pool = pool(&world, patient(2, 5));
    world.change(|facts| (facts.failing_resets, facts.failing_makes) = (1, 4));
    pool.execute("t", call("one")).unwrap();
    assert_eq!(stdout(&pool.execute("t", call("two"))), "two");
    let metrics = until(&pool, |now| now.machines.clean == 2);
    assert_eq!((metrics.counters.failed_refills, metrics.counters.refills), (4, 3));
}

#[test]
fn a_call_waits_while_there_is_hope_for_a_machine() {
    let world = World::new();
    world.change(|facts| facts.failing_makes = 3);
    let pool = cold(&world, patient(1, 3));
    assert_eq!(stdout(&pool.execute("t", call("one"))), "one");
    assert_eq!(world.facts().tried, 4);
}

#[test]
fn without_any_machine_a_call_is_told_why_until_it_can_be_made() {
    let world = World::new();
    world.change(|facts| facts.failing_makes = usize::MAX);
    let pool = cold(&world, patient(2, 2));
    // It may have given up already, or do so while this waits.
    let error = pool.execute("t", call("one")).unwrap_err();
    assert!(matches!(error, PoolError::NoMachine { .. }), "{error}");
    assert!(error.to_string().contains("no machine today"), "{error}");
    assert_eq!(error.code(), "SANDBOX_NOT_AVAILABLE");
    assert!(pool.wait_until_warm(LIMIT).is_err());
    assert_eq!((world.facts().tried, pool.metrics().counters.failed_refills), (3, 3));
    assert_eq!(pool.metrics().queued, 0);
    world.change(|facts| facts.failing_makes = 0);
    pool.refill();
    assert_eq!(pool.wait_until_warm(LIMIT).unwrap(), 2);
    assert_eq!(stdout(&pool.execute("t", call("two"))), "two");
}

/// A shortage that lasts longer than the retries costs no machine for good.
#[test]
fn making_is_tried_for_as_long_as_it_takes() {
    for (failing, spare) in [(9, 1), (40, 1), (9, 0)] {
        let world = World::new();
        world.change(|facts| facts.failing_makes = failing);
        let config = PoolConfig { refill_every: SOON, spare, ..patient(1, 2) };
        let pool = cold(&world, config);
        // No call to `refill`, and nothing else that happens.
        let deadline = Instant::now() + LIMIT;
        while pool.execute("t", call("one")).is_err() {
            assert!(Instant::now() < deadline, "{:?}", pool.metrics());
        }
        assert_eq!(pool.metrics().shortage, None);
        assert_eq!(world.facts().tried, failing + 1);
        world.assert_clean();
    }
}

#[test]
fn a_shortage_is_told_with_its_reason() {
    let world = World::new();
    let pool = pool(&world, patient(2, 0));
    assert_eq!(pool.metrics().shortage, None);
    world.change(|facts| (facts.failing_resets, facts.failing_makes) = (1, usize::MAX));
    pool.execute("t", call("one")).unwrap();
    let metrics = until(&pool, |now| now.counters.failed_refills == 1);
    assert!(metrics.shortage.unwrap().contains("no machine today"));
    assert!(!pool.has_given_up(), "there is another one");
}

#[test]
fn a_pool_with_fewer_machines_goes_on_until_the_last_is_lost() {
    let world = World::new();
    let pool = pool(&world, patient(2, 0));
    world.change(|facts| (facts.failing_resets, facts.failing_makes) = (1, usize::MAX));
    pool.execute("t", call("one")).unwrap();
    until(&pool, |now| now.counters.failed_refills == 1 && now.machines.clean == 1);
    assert_eq!(stdout(&pool.execute("t", call("two"))), "two");
    idle(&pool);
    world.change(|facts| (facts.failing_resets, facts.hold_ends) = (1, true));
    pool.execute("t", call("three")).unwrap();
    until(&pool, |now| now.counters.failed_refills == 2 && now.machines.ending == 1);
    scope(|scope| {
        let waits = queued(scope, &pool, "t", call("four"));
        let begun = Instant::now();
        world.release_all();
        assert!(matches!(waits.join().unwrap(), Err(PoolError::NoMachine { .. })));
        assert!(begun.elapsed() < LIMIT, "it had to find out for itself");
    });
    assert_eq!(world.facts().ended, 2);
}

#[test]
fn machines_are_made_when_they_are_needed_and_spares_kept() {
    let world = World::new();
    let pool = pool(&world, PoolConfig { spare: 1, ..PoolConfig::new(3) });
    assert_eq!(world.facts().made, 1);
    world.hold(&["one", "two", "three"]);
    scope(|scope| {
        for (busy, id) in ["one", "two", "three"].into_iter().enumerate() {
            running(scope, &pool, &world, "t", id);
            let made = (busy + 2).min(3);
            drop(world.until(|facts| facts.made == made));
        }
        until(&pool, |now| now.machines.gone == 0);
        world.release_all();
    });
    assert_eq!((idle(&pool).machines.clean, world.facts().made), (3, 3));
}

#[test]
fn without_spares_the_first_call_makes_the_first_machine() {
    let world = World::new();
    let pool = pool(&world, PoolConfig { spare: 0, ..PoolConfig::new(2) });
    assert_eq!(world.facts().made, 0);
    pool.execute("t", call("one")).unwrap();
    idle(&pool);
    pool.execute("t", call("two")).unwrap();
    assert_eq!((idle(&pool).machines.clean, world.facts().made), (1, 1));
}

/// A pool and the switch that makes its host short of memory.
fn switched(world: &Arc<World>, machines: usize) -> (Pool, Arc<AtomicBool>) {
    let short = Arc::new(AtomicBool::new(false));
    let (source, switch) = (FakeSource(Arc::clone(world)), Arc::clone(&short));
    let level = move || {
        if switch.load(Ordering::SeqCst) { PressureLevel::High } else { PressureLevel::None }
    };
    let pool = Pool::start_with_pressure(source, PoolConfig::new(machines), level).unwrap();
    pool.wait_until_warm(LIMIT).unwrap();
    (pool, short)
}

#[test]
fn idle_machines_go_when_memory_is_short_and_come_back_later() {
    let world = World::new();
    let (pool, short) = switched(&world, 4);
    world.hold(&["busy"]);
    scope(|scope| {
        let busy = running(scope, &pool, &world, "t", "busy");
        short.store(true, Ordering::SeqCst);
        pool.check_pressure();
        // The one in use is the one that stays.
        let metrics = until(&pool, |now| now.machines.gone == 3);
        assert_eq!((metrics.machines.busy, metrics.counters.shrinks), (1, 3));
        assert!(metrics.under_pressure);
        // Still in service.
        let next = queued(scope, &pool, "t", call("next"));
        world.release_all();
        busy.join().unwrap().unwrap();
        next.join().unwrap().unwrap();
    });
    assert_eq!(idle(&pool).machines, MachineCounts { clean: 1, gone: 3, ..Default::default() });
    short.store(false, Ordering::SeqCst);
    pool.check_pressure();
    let metrics = until(&pool, |now| now.machines.clean == 4);
    assert_eq!((metrics.counters.refills, metrics.under_pressure), (7, false));
    world.assert_clean();
}

#[test]
fn a_machine_that_comes_back_makes_the_pool_look_at_memory_and_later_it_looks_by_itself() {
    let world = World::new();
    let (pool, short) = switched(&world, 3);
    short.store(true, Ordering::SeqCst);
    pool.execute("t", call("one")).unwrap();
    until(&pool, |now| now.machines.gone == 2);
    short.store(false, Ordering::SeqCst);
    // There is no call, and still it grows.
    until(&pool, |now| now.machines.clean == 3);
}

#[test]
fn memory_is_looked_at_once_a_second_at_most() {
    let world = World::new();
    let looks = Arc::new(AtomicUsize::new(0));
    let (source, counter) = (FakeSource(Arc::clone(&world)), Arc::clone(&looks));
    let level = move || {
        counter.fetch_add(1, Ordering::SeqCst);
        PressureLevel::None
    };
    let begun = Instant::now();
    let pool = Pool::start_with_pressure(source, PoolConfig::new(2), level).unwrap();
    pool.wait_until_warm(LIMIT).unwrap();
    assert_eq!(looks.load(Ordering::SeqCst), 0, "nothing to decide yet");
    for _ in 0..500 {
        pool.execute("t", call("x")).unwrap();
    }
    idle(&pool);
    pool.shutdown();
    let most = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=most).contains(&looks.load(Ordering::SeqCst)), "{most} at most: {looks:?}");
}

#[test]
fn a_shutdown_wakes_those_who_wait_and_ends_what_runs() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(2));
    world.hold(&["one", "two"]);
    scope(|scope| {
        let busy = ["one", "two"].map(|id| running(scope, &pool, &world, "t", id));
        let waiting = ["a", "b", "c"].map(|id| queued(scope, &pool, "t", call(id)));
        let begun = Instant::now();
        let twice = scope.spawn(|| pool.shutdown());
        pool.shutdown();
        twice.join().unwrap();
        assert_eq!(world.facts().ended, 2);
        // A real machine ends its calls; this one has to be told to look.
        world.release_all();
        for answer in busy {
            assert!(answer.join().unwrap().unwrap().result.is_err());
        }
        for answer in waiting {
            assert!(matches!(answer.join().unwrap(), Err(PoolError::ShutDown)));
        }
        assert!(begun.elapsed() < LIMIT, "they had to find out for themselves");
    });
    assert!(matches!(pool.execute("t", call("late")), Err(PoolError::ShutDown)));
    assert!(matches!(pool.wait_until_warm(LIMIT), Err(PoolError::ShutDown)));
    assert_eq!(pool.metrics().machines, MachineCounts { gone: 2, ..Default::default() });
    assert_eq!(Arc::strong_count(&pool.shared), 1, "a thread is left");
    drop(pool);
    assert_eq!(Arc::strong_count(&world), 1, "a machine is left");
    world.assert_clean();
}

#[test]
fn a_drop_in_the_middle_of_a_reset_leaves_nothing() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(2));
    world.change(|facts| facts.hold_resets = true);
    pool.execute("t", call("one")).unwrap();
    drop(world.until(|facts| facts.resetting == 1));
    drop(pool);
    assert_eq!((Arc::strong_count(&world), world.facts().ended), (1, 2));
}

#[test]
fn calls_under_way_can_be_ended_and_later_ones_are_served() {
    let world = World::new();
    let pool = pool(&world, PoolConfig { queue: 4, ..PoolConfig::new(2) });
    world.hold(&["one", "two"]);
    scope(|scope| {
        let busy = ["one", "two"].map(|id| running(scope, &pool, &world, "t", id));
        let waiting = queued(scope, &pool, "t", call("later"));
        assert_eq!(pool.abort_calls(), 2);
        // A real machine ends its calls; this one has to be told to look.
        world.release_all();
        for answer in busy {
            assert!(answer.join().unwrap().unwrap().result.is_err());
        }
        assert_eq!(stdout(&waiting.join().unwrap()), "later");
    });
    until(&pool, |now| now.machines.clean == 2);
    assert_eq!(world.facts().ended, 2);
    assert_eq!(pool.metrics().tenants.len(), 0);
    assert_eq!(pool.abort_calls(), 0);
    assert!(!pool.has_given_up());
    pool.shutdown();
    assert!(pool.has_given_up());
    world.assert_clean();
}
