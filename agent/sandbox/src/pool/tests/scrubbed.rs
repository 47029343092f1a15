//! Machines that are looked at while they are idle.

use super::*;
use crate::pool::OnFault;

const SOON: Duration = Duration::from_micros(200);

fn looking(machines: usize) -> PoolConfig {
    let (on_fault, scrub_every) = (OnFault::Halt, Some(SOON));
    PoolConfig { on_fault, scrub_every, ..PoolConfig::new(machines) }
}

#[test]
fn what_is_found_on_an_idle_machine_halts_the_pool_without_a_call() {
    let world = World::new();
    let pool = pool(&world, looking(2));
    drop(world.until(|facts| facts.scrubs > 3));
    world.change(|facts| facts.scrub_findings.push(FakeFinding::Divergence));
    let metrics = until(&pool, |now| now.counters.failed_verifications == 1);
    assert!(pool.halted().is_some());
    assert!(order(&world).is_empty(), "{metrics:?}");
    let error = pool.execute("t", call("refused")).unwrap_err();
    assert_eq!(error.code(), "ENDPOINT_INTEGRITY_MONITOR_TRIPPED");
    until(&pool, |now| now.machines.ending == 0);
    assert_eq!(world.facts().ended, 1);
    pool.resume();
    assert_eq!(stdout(&pool.execute("t", call("one"))), "one");
    world.assert_clean();
}

#[test]
fn a_pool_that_does_not_look_finds_nothing() {
    let world = World::new();
    let config = PoolConfig { scrub_every: None, ..looking(2) };
    // Nor does one whose calls cannot wait.
    for config in [config, PoolConfig { queue: 0, ..looking(2) }] {
        let pool = pool(&world, config);
        world.change(|facts| facts.scrub_findings = vec![FakeFinding::Divergence]);
        for id in ["one", "two", "three"] {
            assert_eq!(stdout(&pool.execute("t", call(id))), id);
            idle(&pool);
        }
        assert_eq!((world.facts().scrubs, pool.metrics().counters.scrubs), (0, 0));
        assert_eq!(world.facts().scrub_findings.len(), 1);
        assert!(pool.halted().is_none());
    }
    world.assert_clean();
}

#[test]
fn a_call_is_the_end_of_a_look() {
    let world = World::new();
    let pool = pool(&world, looking(1));
    world.change(|facts| facts.hold_scrubs = true);
    let held = world.until(|facts| facts.looking == 1).scrubs;
    world.hold(&["one"]);
    scope(|scope| {
        let waiting = queued(scope, &pool, "t", call("one"));
        let before = world.change(|facts| {
            facts.hold_scrubs = false;
            facts.scrubs
        });
        assert_eq!(before, held);
        // There is one machine: while the call has it no worker can look.
        let then = world.until(|facts| facts.running == 1).scrubs;
        assert_eq!(then, before, "it was looked at again although a call waited");
        world.release("one");
        assert_eq!(stdout(&waiting.join().unwrap()), "one");
    });
    drop(world.until(|facts| facts.scrubs > held));
    drop(pool);
    world.assert_clean();
}

#[test]
fn calls_and_looks_keep_out_of_each_others_way() {
    let world = World::new();
    let pool = pool(&world, PoolConfig { scrub_every: Some(Duration::ZERO), ..looking(3) });
    scope(|scope| {
        for caller in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                for number in 0..50 {
                    let id = format!("{caller}-{number}");
                    assert_eq!(stdout(&pool.execute("t", call(&id))), id);
                }
            });
        }
    });
    let metrics = idle_but_for_looks(&pool);
    assert_eq!((metrics.counters.calls, metrics.counters.resets), (200, 200));
    assert_eq!(metrics.counters.refills, 3);
    drop(pool);
    world.assert_clean();
}

#[test]
fn a_look_that_panics_costs_the_machine_and_not_the_pool() {
    let world = World::new();
    let pool = pool(&world, PoolConfig { on_fault: OnFault::Replace, ..looking(1) });
    world.change(|facts| facts.scrub_findings.push(FakeFinding::Panic));
    drop(world.until(|facts| facts.made == 2));
    assert_eq!(stdout(&pool.execute("t", call("one"))), "one");
    drop(pool);
    world.assert_clean();
}

#[test]
fn a_pool_ends_while_it_looks() {
    let world = World::new();
    let pool = pool(&world, looking(2));
    world.change(|facts| facts.hold_scrubs = true);
    drop(world.until(|facts| facts.looking == 1));
    pool.shutdown();
    assert_eq!(world.facts().ended, 2);
    world.assert_clean();
}

/// Every call's machine is back.
fn idle_but_for_looks(pool: &Pool) -> PoolMetrics {
    until(pool, |now| now.machines.busy == 0 && now.counters.resets == now.counters.calls)
}
