//! Pools of real Linux guests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::collections::HashSet;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use sandbox::KvmSource;
use sandbox::pool::{
    CallOptions, MachineCounts, Pool, PoolConfig, PoolError, PoolMetrics, PressureLevel,
};
use sandbox::{ImageSource, KvmConfig, KvmSandbox, Sandbox, SandboxError, SandboxSpec, ToolCall};
use serde_json::json;

const MACHINES: usize = 3;
const CALLS: usize = 10;
const LIMIT: Duration = Duration::from_secs(60);

fn booted() -> KvmSandbox {
    let spec = SandboxSpec {
        enable_tools: vec!["sh".into()],
        ..SandboxSpec::new(ImageSource::directory(integration_tests::image_dir()))
    };
    let sandbox = KvmSandbox::new(spec, KvmConfig::default());
    sandbox.boot().unwrap();
    sandbox
}

/// A pool that is warm, on a host that is never short of memory.
fn pool(config: PoolConfig) -> Pool {
    let source = KvmSource::new(booted()).unwrap();
    let machines = config.machines;
    let pool = Pool::start_with_pressure(source, config, || PressureLevel::None).unwrap();
    assert_eq!(pool.wait_until_warm(LIMIT).unwrap(), machines);
    pool
}

fn shell(script: &str) -> ToolCall {
    ToolCall::new("sh", json!({"script": script}).as_object().cloned().unwrap())
}

/// Waits until every machine is clean again.
fn idle(pool: &Pool) -> PoolMetrics {
    let until = Instant::now() + LIMIT;
    loop {
        let metrics = pool.metrics();
        if metrics.machines == (MachineCounts { clean: MACHINES, ..MachineCounts::default() }) {
            return metrics;
        }
        assert!(Instant::now() < until, "{metrics:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn ten_calls_at_once_on_three_machines_see_only_what_they_wrote() {
    const ROUNDS: usize = 5;
    let pool = pool(PoolConfig::new(MACHINES));
    let together = Barrier::new(CALLS);
    // Judged at the end: a caller that fails on its own would leave the others at the barrier.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLS)
            .map(|caller| {
                let (pool, together) = (&pool, &together);
                let call = move |round| {
                    let marker = format!("marker-{caller}-{round}");
                    let script = format!(
                        "echo {marker} > /work/{marker}; echo {marker} > /tmp/{marker}; \
                         ls -A /work; cat /work/* /tmp/marker*"
                    );
                    together.wait();
                    (marker, pool.execute("tenant", shell(&script)))
                };
                scope.spawn(move || (0..ROUNDS).map(call).collect::<Vec<_>>())
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    let mut used = HashSet::new();
    for (marker, answer) in answers {
        let outcome = answer.unwrap();
        let seen = String::from_utf8(outcome.result.unwrap().stdout).unwrap();
        assert_eq!(seen, format!("{marker}\n{marker}\n{marker}\n"));
        used.insert(outcome.machine);
    }
    assert_eq!(used, (0..MACHINES).collect());
    let PoolMetrics { counters, queued, tenants, .. } = idle(&pool);
    println!("{counters:?}");
    let calls = (CALLS * ROUNDS) as u64;
    assert_eq!((counters.calls, counters.resets, counters.failed_resets), (calls, calls, 0));
    assert_eq!((counters.refills, counters.failed_refills), (MACHINES as u64, 0));
    assert_eq!((counters.queue_full, counters.expired, counters.shrinks), (0, 0, 0));
    assert_eq!((queued, tenants.len()), (0, 0));
    let waits = counters.waits;
    // Of ten that come at once, seven find no machine unless some are very fast.
    assert!(waits.count >= 1 && waits.count < calls, "{waits:?}");
    assert!(waits.max_us <= waits.total_us);
}

#[test]
fn a_call_can_wait_for_the_reset_of_its_machine() {
    let pool = pool(PoolConfig::new(MACHINES));
    let options = CallOptions { wait_for_reset: true, ..CallOptions::default() };
    for _ in 0..20 {
        let call = shell("ls -A /work; echo secret > /work/secret");
        let outcome = pool.execute_with("tenant", call, options, |_| Ok(())).unwrap();
        assert_eq!(outcome.result.unwrap().stdout, b"");
        assert!(outcome.reset.unwrap().unwrap().dirty_pages > 0);
        assert_eq!(pool.metrics().machines.clean, MACHINES);
    }
}

#[test]
fn a_tool_that_runs_out_of_time_leaves_a_machine_that_serves_again() {
    let pool = pool(PoolConfig::new(MACHINES));
    for _ in 0..MACHINES * 2 {
        let call = ToolCall { deadline_ms: 500, ..shell("echo x > /work/x; sleep 1000") };
        let outcome = pool.execute("tenant", call).unwrap();
        assert!(matches!(outcome.result, Err(SandboxError::ToolTimeout { .. })), "{outcome:?}");
    }
    let metrics = idle(&pool);
    assert_eq!(metrics.counters.calls, MACHINES as u64 * 2);
    for _ in 0..MACHINES * 2 {
        let outcome = pool.execute("tenant", shell("ls -A /work")).unwrap();
        assert_eq!(outcome.result.unwrap().stdout, b"");
    }
}

#[test]
fn a_shutdown_ends_calls_in_real_machines() {
    let pool = pool(PoolConfig::new(MACHINES));
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..=MACHINES)
            .map(|_| scope.spawn(|| pool.execute("tenant", shell("sleep 1000"))))
            .collect();
        let until = Instant::now() + LIMIT;
        while pool.metrics().machines.busy < MACHINES || pool.metrics().queued < 1 {
            assert!(Instant::now() < until, "{:#?}", pool.metrics());
            std::thread::sleep(Duration::from_millis(5));
        }
        let begun = Instant::now();
        pool.shutdown();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let answers: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        let told = |answer: &&Result<_, PoolError>| matches!(answer, Err(PoolError::ShutDown));
        assert_eq!(answers.iter().filter(told).count(), 1);
        assert!(answers.iter().flatten().all(|outcome| outcome.result.is_err()));
    });
}

#[test]
fn a_pool_larger_than_its_memory_is_refused() {
    let limit = Some(400 << 20);
    let config = PoolConfig { memory_limit_bytes: limit, ..PoolConfig::new(4) };
    let error = Pool::start(KvmSource::new(booted()).unwrap(), config).err().unwrap();
    assert!(error.to_string().contains("3 machines fit"), "{error}");
}
