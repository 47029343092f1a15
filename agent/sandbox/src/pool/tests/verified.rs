//! Calls whose machines are verified.

use super::*;
use crate::Verdict;

const VERIFY: CallOptions = CallOptions { wait_for_reset: false, verify: true };

fn verified(pool: &Pool, id: &str) -> PooledOutcome {
    pool.execute_with("t", call(id), VERIFY, |_| Ok(())).unwrap()
}

fn verdict(outcome: &PooledOutcome) -> Verdict {
    outcome.verification.as_ref().unwrap().as_ref().unwrap().verdict()
}

#[test]
fn who_asks_for_it_gets_the_verification_of_the_machine_that_ran_the_call() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    let outcome = verified(&pool, "one");
    assert_eq!(verdict(&outcome), Verdict::Passed);
    assert!(outcome.result.is_ok() && outcome.reset.unwrap().is_ok());
    let metrics = idle(&pool);
    assert_eq!((metrics.machines.clean, metrics.counters.verified), (1, 1));
    assert_eq!((metrics.counters.resets, metrics.counters.failed_verifications), (1, 0));
    assert!(pool.execute("t", call("two")).unwrap().verification.is_none());
    world.assert_clean();
}

#[test]
fn a_verified_machine_is_reset_once_more_before_a_call_gets_it() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    scope(|scope| {
        world.hold(&["one"]);
        let first = scope.spawn(|| verified(&pool, "one"));
        drop(world.until(|facts| facts.running == 1));
        let second = queued(scope, &pool, "t", call("two"));
        // The first reset goes through, the one after the verification does not.
        world.change(|facts| facts.hold_resets = true);
        world.release("one");
        drop(world.until(|facts| facts.resetting == 1));
        world.change(|facts| {
            facts.hold_resets = false;
            facts.hold_second_resets = true;
        });
        assert_eq!(verdict(&first.join().unwrap()), Verdict::Passed);
        drop(world.until(|facts| facts.resetting == 1));
        assert_eq!(pool.metrics().machines.resetting, 1);
        assert_eq!(order(&world), ["one"]);
        world.release_all();
        assert_eq!(stdout(&second.join().unwrap()), "two");
    });
    world.assert_clean();
}

#[test]
fn a_machine_that_does_not_pass_is_reported_ended_and_replaced() {
    for (finding, expected) in
        [(FakeFinding::Divergence, Verdict::Diverged), (FakeFinding::Silence, Verdict::Silent)]
    {
        let world = World::new();
        let pool = pool(&world, PoolConfig::new(1));
        world.change(|facts| facts.findings.push(finding));
        let outcome = verified(&pool, "one");
        assert_eq!(verdict(&outcome), expected);
        assert!(outcome.result.is_ok());
        let metrics = until(&pool, |now| now.machines.clean == 1 && now.machines.ending == 0);
        let counters = metrics.counters;
        assert_eq!((counters.verified, counters.failed_verifications), (0, 1));
        assert_eq!((counters.resets, counters.failed_resets, counters.refills), (0, 0, 2));
        assert_eq!(world.facts().ended, 1);
        assert_eq!(verdict(&verified(&pool, "two")), Verdict::Passed);
        world.assert_clean();
    }
}

#[test]
fn a_machine_that_cannot_be_put_back_is_no_verification() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    world.change(|facts| facts.failing_resets = 1);
    let outcome = verified(&pool, "one");
    assert!(outcome.reset.is_none());
    assert_eq!(outcome.verification.unwrap().unwrap_err().code(), "SANDBOX_RESET_FAILED");
    world.change(|facts| facts.findings.push(FakeFinding::Panic));
    let outcome = verified(&pool, "two");
    let error = outcome.verification.unwrap().unwrap_err();
    assert!(error.to_string().contains("as the test wanted"), "{error}");
    let metrics = until(&pool, |now| now.machines.clean == 1 && now.machines.ending == 0);
    assert_eq!((metrics.counters.failed_resets, metrics.counters.verified), (2, 0));
    assert_eq!(world.facts().ended, 2);
    world.assert_clean();
}

#[test]
fn a_second_reset_that_fails_costs_the_machine_and_not_the_verification() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    world.change(|facts| facts.failing_second_resets = 1);
    assert_eq!(verdict(&verified(&pool, "one")), Verdict::Passed);
    let metrics = until(&pool, |now| now.counters.refills == 2 && now.machines.clean == 1);
    assert_eq!((metrics.counters.verified, metrics.counters.failed_resets), (1, 1));
    world.assert_clean();
}

#[test]
fn a_shutdown_meets_a_verification() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    world.change(|facts| facts.hold_resets = true);
    scope(|scope| {
        let sent = scope.spawn(|| pool.execute_with("t", call("one"), VERIFY, |_| Ok(())));
        drop(world.until(|facts| facts.resetting == 1));
        pool.shutdown();
        let outcome = sent.join().unwrap().unwrap();
        let error = outcome.verification.unwrap().unwrap_err();
        assert!(matches!(error, SandboxError::TakenAway { .. }), "{error}");
    });
    assert_eq!(world.facts().ended, 1);
    world.assert_clean();
}
