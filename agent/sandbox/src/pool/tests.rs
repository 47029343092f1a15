//! Pools of fake machines. Pools of real ones are tested in the crate `integration-tests`.

mod fake;
mod halted;
mod lifecycle;
mod random;
mod scrubbed;
mod verified;

use std::sync::Barrier;
use std::thread::{ScopedJoinHandle, scope};

use super::*;
use fake::{Fake, FakeFinding, FakeSource, LIMIT, World, call, call_of, tenants};

type Answer = Result<PooledOutcome, PoolError>;

/// A pool that is warm, in a world without a lack of memory.
fn pool(world: &Arc<World>, config: PoolConfig) -> Pool {
    let pool = cold(world, config);
    pool.wait_until_warm(LIMIT).unwrap();
    pool
}

fn cold(world: &Arc<World>, config: PoolConfig) -> Pool {
    let source = FakeSource(Arc::clone(world));
    Pool::start_with_pressure(source, config, || PressureLevel::None).unwrap()
}

/// Waits until the metrics say so.
fn until(pool: &Pool, done: impl Fn(&PoolMetrics) -> bool) -> PoolMetrics {
    let limit = Instant::now().checked_add(LIMIT);
    let happened = pool.shared.wait_for(limit, |state| done(&state.metrics()));
    assert!(happened, "{:#?}", pool.metrics());
    pool.metrics()
}

/// Everything is done and every machine is clean again.
fn idle(pool: &Pool) -> PoolMetrics {
    until(pool, |now| now.machines.busy + now.machines.resetting + now.machines.ending == 0)
}

fn stdout(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.as_ref().unwrap().result.as_ref().unwrap().stdout).unwrap()
}

/// Sends a call from another thread and waits until it runs.
fn running<'s>(
    scope: &'s std::thread::Scope<'s, '_>,
    pool: &'s Pool,
    world: &World,
    tenant: &'static str,
    id: &'static str,
) -> ScopedJoinHandle<'s, Answer> {
    let sent = scope.spawn(move || pool.execute(tenant, call(id)));
    drop(world.until(|facts| facts.calls.iter().any(|(begun, _)| begun == id)));
    sent
}

/// Sends a call from another thread and waits until it is in the queue.
fn queued<'s>(
    scope: &'s std::thread::Scope<'s, '_>,
    pool: &'s Pool,
    tenant: &'static str,
    call: ToolCall,
) -> ScopedJoinHandle<'s, Answer> {
    let before = pool.metrics().queued;
    let sent = scope.spawn(move || pool.execute(tenant, call));
    until(pool, |now| now.queued == before + 1);
    sent
}

fn order(world: &World) -> Vec<String> {
    world.facts().calls.iter().map(|(id, _)| id.clone()).collect()
}

#[test]
fn ten_calls_in_flight_do_not_see_each_other() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(10));
    let ids: Vec<String> = (0..10).map(|n| format!("call-{n}")).collect();
    for _ in 0..5 {
        world.change(|facts| facts.held_calls.clone_from(&ids));
        let together = Barrier::new(10);
        scope(|scope| {
            let answers: Vec<_> = ids
                .iter()
                .map(|id| {
                    let (pool, together) = (&pool, &together);
                    scope.spawn(move || {
                        together.wait();
                        pool.execute("t", call(id))
                    })
                })
                .collect();
            drop(world.until(|facts| facts.running == 10));
            assert_eq!(pool.metrics().tenants, tenants(&[("t", 10)]));
            world.release_all();
            for (id, answer) in ids.iter().zip(answers) {
                assert_eq!(stdout(&answer.join().unwrap()), id);
            }
        });
        idle(&pool);
    }
    let metrics = pool.metrics();
    assert_eq!((metrics.counters.calls, metrics.counters.resets), (50, 50));
    assert_eq!((metrics.machines.clean, metrics.counters.refills), (10, 10));
    world.assert_clean();
}

#[test]
fn calls_are_served_in_the_order_of_arrival() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    world.hold(&["first"]);
    scope(|scope| {
        let mut sent = vec![running(scope, &pool, &world, "t", "first")];
        for id in ["a", "b", "c", "d", "e"] {
            sent.push(queued(scope, &pool, "t", call(id)));
        }
        world.release("first");
        for answer in sent {
            let answer = answer.join().unwrap();
            assert!(!stdout(&answer).contains(','), "{answer:?}");
        }
    });
    assert_eq!(order(&world), ["first", "a", "b", "c", "d", "e"]);
    let waits = idle(&pool).counters.waits;
    assert_eq!(waits.count, 5);
    assert!(waits.max_us > 0 && waits.total_us >= waits.max_us);
    world.assert_clean();
}

#[test]
fn a_tenant_at_the_limit_holds_up_no_other() {
    let world = World::new();
    let pool = pool(&world, PoolConfig { per_tenant: 1, ..PoolConfig::new(3) });
    world.hold(&["big-1", "small-1"]);
    scope(|scope| {
        let first = running(scope, &pool, &world, "big", "big-1");
        // There are clean machines, but not for this tenant.
        let second = queued(scope, &pool, "big", call("big-2"));
        let third = queued(scope, &pool, "big", call("big-3"));
        assert_eq!(idle_clean(&pool), 2);
        // Overtakes both.
        let small = running(scope, &pool, &world, "small", "small-1");
        let behind = queued(scope, &pool, "small", call("small-2"));
        assert_eq!(pool.metrics().tenants, tenants(&[("big", 1), ("small", 1)]));
        world.release("small-1");
        small.join().unwrap().unwrap();
        behind.join().unwrap().unwrap();
        assert_eq!(order(&world), ["big-1", "small-1", "small-2"]);
        world.release("big-1");
        for answer in [first, second, third] {
            answer.join().unwrap().unwrap();
        }
    });
    assert_eq!(order(&world)[3..], ["big-2", "big-3"]);
    assert_eq!(pool.metrics().tenants, tenants(&[]));
    world.assert_clean();
}

fn idle_clean(pool: &Pool) -> usize {
    pool.metrics().machines.clean
}

#[test]
fn a_machine_is_not_handed_out_before_its_reset_is_over() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    world.change(|facts| facts.hold_resets = true);
    // Comes back although the reset does not.
    assert_eq!(stdout(&pool.execute("t", call("one"))), "one");
    drop(world.until(|facts| facts.resetting == 1));
    scope(|scope| {
        let next = queued(scope, &pool, "t", call("two"));
        assert_eq!(pool.metrics().machines, MachineCounts { resetting: 1, ..Default::default() });
        assert_eq!(order(&world), ["one"]);
        world.release_all();
        assert_eq!(stdout(&next.join().unwrap()), "two");
    });
    world.assert_clean();
}

#[test]
fn no_call_waits_for_a_reset_while_another_machine_is_clean() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(3));
    world.change(|facts| facts.hold_resets = true);
    for id in ["one", "two", "three"] {
        assert_eq!(stdout(&pool.execute("t", call(id))), id);
    }
    assert_eq!(pool.metrics().machines.resetting, 3);
    assert_eq!(pool.metrics().counters.waits.count, 0);
    world.release_all();
    assert_eq!(idle(&pool).machines.clean, 3);
}

#[test]
fn who_asks_for_it_gets_the_reset_of_the_machine_that_ran_the_call() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(2));
    let options = CallOptions { wait_for_reset: true, ..CallOptions::default() };
    let outcome = pool.execute_with("t", call("one"), options, |_| Ok(())).unwrap();
    assert_eq!(outcome.reset.unwrap().unwrap().dirty_pages, 1);
    assert_eq!((pool.metrics().machines.clean, pool.metrics().counters.resets), (2, 1));
    // A call that failed leaves a dirty machine like any other.
    let outcome = pool.execute_with("t", call_of("fail", "two"), options, |_| Ok(())).unwrap();
    assert!(outcome.result.is_err() && outcome.reset.unwrap().is_ok());
    world.change(|facts| facts.failing_resets = 1);
    let outcome = pool.execute_with("t", call("three"), options, |_| Ok(())).unwrap();
    assert!(outcome.result.is_ok());
    assert_eq!(outcome.reset.unwrap().unwrap_err().code(), "SANDBOX_RESET_FAILED");
    assert_eq!(until(&pool, |now| now.machines.clean == 2).counters.refills, 3);
    assert!(pool.execute("t", call("four")).unwrap().reset.is_none());
    world.assert_clean();
}

#[test]
fn who_waits_for_a_reset_does_not_keep_the_machine_from_the_next() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    world.change(|facts| facts.hold_resets = true);
    let options = CallOptions { wait_for_reset: true, ..CallOptions::default() };
    scope(|scope| {
        let first = scope.spawn(|| pool.execute_with("t", call("one"), options, |_| Ok(())));
        drop(world.until(|facts| facts.resetting == 1));
        let second = queued(scope, &pool, "t", call("two"));
        world.release_all();
        assert!(first.join().unwrap().unwrap().reset.unwrap().is_ok());
        assert_eq!(stdout(&second.join().unwrap()), "two");
    });
    world.assert_clean();
}

#[test]
fn a_call_is_told_of_its_machine_before_the_machine_sees_it() {
    let world = World::new();
    let pool = pool(&world, PoolConfig { queue: 5, ..PoolConfig::new(2) });
    assert_eq!(pool.most_calls(), 7);
    let mut told = None;
    let outcome = pool.execute_with("t", call("one"), CallOptions::default(), |machine| {
        // Not under the pool's lock, and not after the fact.
        assert_eq!((pool.metrics().machines.busy, order(&world).len()), (1, 0));
        told = Some(machine);
        Ok(())
    });
    assert_eq!(told, Some(outcome.unwrap().machine));
    let late = ToolCall { deadline_ms: 0, ..call("two") };
    let refused = pool.execute_with("t", late, CallOptions::default(), |_| panic!("no machine"));
    assert_eq!(refused.unwrap_err().code(), "SANDBOX_TOOL_TIMEOUT");
}

#[test]
fn a_call_that_may_not_begin_is_seen_by_no_machine() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    let no = || Refused { code: "ENDPOINT_POLICY_DENIED", message: "not today".to_owned() };
    let refused = pool.execute_with("t", call("one"), CallOptions::default(), |_| Err(no()));
    assert!(matches!(refused, Err(PoolError::Refused(refused)) if refused == no()));
    // The machine is another call's.
    pool.execute("t", call("two")).unwrap();
    assert_eq!(order(&world), ["two"]);
    world.assert_clean();
}

#[test]
fn a_call_that_panics_leaves_a_machine_that_is_reset() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    scope(|scope| {
        let broken = scope.spawn(|| pool.execute("t", call_of("panic", "one")));
        assert!(broken.join().is_err());
    });
    assert_eq!(stdout(&pool.execute("t", call("two"))), "two");
    world.assert_clean();
}

#[test]
fn a_full_queue_refuses_with_the_code_that_asks_to_come_back() {
    let world = World::new();
    let pool = pool(&world, PoolConfig { queue: 1, ..PoolConfig::new(1) });
    world.hold(&["one"]);
    scope(|scope| {
        let first = running(scope, &pool, &world, "t", "one");
        let second = queued(scope, &pool, "t", call("two"));
        let error = pool.execute("t", call("three")).unwrap_err();
        assert!(matches!(error, PoolError::QueueFull { waiting: 1 }), "{error}");
        assert_eq!(error.code(), "ENDPOINT_SANDBOX_NOT_READY");
        assert_eq!(pool.metrics().counters.queue_full, 1);
        world.release("one");
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    });
    assert_eq!(order(&world), ["one", "two"]);
}

#[test]
fn a_deadline_that_passes_in_the_queue_is_the_end_of_the_call() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    world.hold(&["one"]);
    scope(|scope| {
        let first = running(scope, &pool, &world, "t", "one");
        let error = pool.execute("t", ToolCall { deadline_ms: 20, ..call("two") }).unwrap_err();
        let PoolError::DeadlinePassed { deadline_ms: 20, waited } = error else {
            panic!("{error}");
        };
        assert!(waited >= Duration::from_millis(20));
        assert_eq!(error.code(), "SANDBOX_TOOL_TIMEOUT");
        world.release("one");
        first.join().unwrap().unwrap();
    });
    let metrics = idle(&pool);
    assert_eq!((metrics.queued, metrics.counters.expired, metrics.counters.calls), (0, 1, 1));
    for deadline_ms in [0, -1, i64::MIN] {
        let error = pool.execute("t", ToolCall { deadline_ms, ..call("three") }).unwrap_err();
        assert_eq!(error.code(), "SANDBOX_TOOL_TIMEOUT");
    }
    assert_eq!(order(&world), ["one"]);
}

#[test]
fn what_was_spent_waiting_is_taken_from_the_tool() {
    let world = World::new();
    let pool = pool(&world, PoolConfig::new(1));
    world.hold(&["one"]);
    scope(|scope| {
        let first = running(scope, &pool, &world, "t", "one");
        let second = queued(scope, &pool, "t", call("two"));
        let forever = ToolCall { deadline_ms: i64::MAX, ..call("three") };
        let third = queued(scope, &pool, "t", forever);
        // The wait itself is what is measured.
        std::thread::sleep(Duration::from_millis(30));
        world.release("one");
        first.join().unwrap().unwrap();
        let waited = second.join().unwrap().unwrap().waited;
        third.join().unwrap().unwrap();
        let given: Vec<i64> = world.facts().calls.iter().map(|(_, given)| *given).collect();
        assert_eq!(given[0], guest::wire::DEFAULT_DEADLINE_MS);
        let waited = i64::try_from(waited.as_millis()).unwrap();
        assert!(waited >= 30);
        assert_eq!(given[1], guest::wire::DEFAULT_DEADLINE_MS - waited);
        assert!(given[2] <= i64::MAX - 30);
    });
}
