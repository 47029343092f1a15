//! A pool that uses no machine any more once one has failed.

use super::*;
use crate::Verdict;
use crate::pool::OnFault;

const VERIFY: CallOptions = CallOptions { wait_for_reset: false, verify: true };

fn halting(machines: usize) -> PoolConfig {
    PoolConfig { on_fault: OnFault::Halt, ..PoolConfig::new(machines) }
}

fn verified(pool: &Pool, id: &str) -> PooledOutcome {
    pool.execute_with("t", call(id), VERIFY, |_| Ok(())).unwrap()
}

fn verdict(outcome: &PooledOutcome) -> Verdict {
    outcome.verification.as_ref().unwrap().as_ref().unwrap().verdict()
}

/// Made and ended so far.
fn machines(world: &World) -> (usize, usize) {
    let facts = world.facts();
    (facts.made, facts.ended)
}

fn refused(pool: &Pool) -> PoolError {
    pool.execute("t", call("refused")).unwrap_err()
}

#[test]
fn a_machine_that_does_not_pass_halts_the_pool_until_it_is_resumed_with_new_ones() {
    for finding in [FakeFinding::Divergence, FakeFinding::Silence] {
        let world = World::new();
        let pool = pool(&world, halting(3));
        until(&pool, |now| now.machines.clean == 3);
        world.change(|facts| facts.findings.push(finding));
        assert_ne!(verdict(&verified(&pool, "one")), Verdict::Passed);
        assert!(pool.halted().is_some());
        let error = refused(&pool);
        assert!(matches!(error, PoolError::Halted { .. }), "{error}");
        assert_eq!(error.code(), "ENDPOINT_INTEGRITY_MONITOR_TRIPPED");
        assert_eq!(machines(&world), (3, 1));
        assert_eq!(order(&world), ["one"]);

        pool.resume();
        assert_eq!(verdict(&verified(&pool, "two")), Verdict::Passed);
        until(&pool, |now| now.machines.clean == 3);
        // None of the old ones is left.
        assert_eq!(machines(&world), (6, 3));
        assert_eq!(world.facts().recaptured, 1);
        world.assert_clean();
    }
}

#[test]
fn a_reset_that_fails_on_a_worker_halts_the_pool_too() {
    let world = World::new();
    let pool = pool(&world, halting(2));
    world.change(|facts| facts.failing_second_resets = 1);
    assert_eq!(verdict(&verified(&pool, "one")), Verdict::Passed);
    until(&pool, |now| now.counters.failed_resets == 1);
    assert!(pool.halted().unwrap().contains("it stays as it is"));
    assert!(matches!(refused(&pool), PoolError::Halted { .. }));
    world.assert_clean();
}

#[test]
fn calls_that_wait_are_refused_and_those_that_run_finish() {
    let world = World::new();
    let pool = pool(&world, halting(2));
    until(&pool, |now| now.machines.clean == 2);
    scope(|scope| {
        world.hold(&["long", "bad"]);
        let long = scope.spawn(|| verified(&pool, "long"));
        drop(world.until(|facts| facts.running == 1));
        let bad = scope.spawn(|| verified(&pool, "bad"));
        drop(world.until(|facts| facts.running == 2));
        let waiting = queued(scope, &pool, "t", call("waiting"));
        world.change(|facts| facts.findings.push(FakeFinding::Divergence));
        world.release("bad");
        assert_eq!(verdict(&bad.join().unwrap()), Verdict::Diverged);
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, PoolError::Halted { .. }), "{error}");

        // What ran before the pool was resumed must not come back as a clean machine.
        pool.resume();
        until(&pool, |now| now.machines.clean == 1);
        world.release("long");
        assert_eq!(verdict(&long.join().unwrap()), Verdict::Passed);
        until(&pool, |now| now.machines.clean == 2 && now.machines.ending == 0);
    });
    assert_eq!(machines(&world), (4, 2));
    world.assert_clean();
}

#[test]
fn machines_that_are_taken_away_are_no_fault() {
    let world = World::new();
    let pool = pool(&world, halting(1));
    scope(|scope| {
        world.hold(&["one"]);
        let sent = scope.spawn(|| pool.execute_with("t", call("one"), VERIFY, |_| Ok(())));
        drop(world.until(|facts| facts.running == 1));
        assert_eq!(pool.abort_calls(), 1);
        let outcome = sent.join().unwrap().unwrap();
        let error = outcome.verification.unwrap().unwrap_err();
        assert!(matches!(error, SandboxError::TakenAway { .. }), "{error}");
    });
    assert!(pool.halted().is_none());
    assert_eq!(verdict(&verified(&pool, "two")), Verdict::Passed);
    world.assert_clean();
}

#[test]
fn another_caller_may_halt_it() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    pool.resume();
    assert_eq!(world.facts().recaptured, 0);
    pool.halt("as the test wanted");
    pool.halt("too late");
    assert_eq!(&*pool.halted().unwrap(), "as the test wanted");
    assert!(refused(&pool).to_string().contains("as the test wanted"));
    pool.resume();
    assert_eq!(stdout(&pool.execute("t", call("one"))), "one");
    world.assert_clean();
}
