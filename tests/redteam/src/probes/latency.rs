//! How long boots, resets and commands take, and whether anything is left of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::leak::Leak;
use crate::{AttackerClass, Expectation, FnProbe, Guest, Latency, ProbeError, Testbed, Verdict};
use sandbox::{KvmImage, KvmSandbox, Resets, Sandbox};

/// Measures cold boots, each of a new machine.
pub const BOOT: FnProbe = battery("lat-boot", "Boots a machine and ends it, again and again", boot);
/// Measures verified resets, each after a command.
pub const RESET: FnProbe =
    battery("lat-reset", "Runs a command and resets, verified, again and again", reset);
/// Measures commands on a machine that is ready.
pub const ROUND_TRIP: FnProbe =
    battery("lat-roundtrip", "Runs the shortest command, again and again", round_trip);

/// Limits of the medians.
const BOOT_P50: Duration = Duration::from_secs(2);
const RESET_P50: Duration = Duration::from_millis(500);
const ROUND_TRIP_P50: Duration = Duration::from_millis(500);
/// Turns before the first measurement, which fill caches of the allocator and of the kernel.
const WARM_UP: u32 = 3;

const fn battery(
    name: &'static str,
    description: &'static str,
    run: fn(&Testbed) -> Result<Verdict, ProbeError>,
) -> FnProbe {
    let (class, expectation) = (AttackerClass::Latency, Expectation::ShouldPass);
    FnProbe { name, class, expectation, description, repeats: true, run }
}

fn boot(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let config = testbed.kvm_config()?;
    let spec = testbed.spec().with_resets(Resets::None);
    let image = KvmImage::open(&spec.image).map_err(|e| ProbeError::Control(e.to_string()))?;
    let image = Arc::new(image);
    repeat(testbed, "boot", BOOT_P50, 0, || {
        let sandbox = KvmSandbox::with_image(spec.clone(), config.clone(), Arc::clone(&image));
        let begun = Instant::now();
        sandbox.boot().map_err(ProbeError::at("booting"))?;
        let took = begun.elapsed();
        sandbox.shutdown();
        Ok(took)
    })
}

fn reset(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.sandbox(Guest::Shipped)?;
    repeat(testbed, "reset", RESET_P50, testbed.plan().sandbox.memory_mib, || {
        command(testbed, &*sandbox)?;
        let begun = Instant::now();
        let verified = sandbox.reset_verified().map_err(ProbeError::at("resetting"))?;
        match verified.verification.failure() {
            None => Ok(begun.elapsed()),
            Some(reason) => Err(ProbeError::Control(reason)),
        }
    })
}

fn round_trip(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.sandbox(Guest::Shipped)?;
    repeat(testbed, "roundtrip", ROUND_TRIP_P50, testbed.plan().sandbox.memory_mib, || {
        command(testbed, &*sandbox)
    })
}

fn command(testbed: &Testbed, sandbox: &dyn Sandbox) -> Result<Duration, ProbeError> {
    let begun = Instant::now();
    match testbed.next_command(sandbox) {
        None => Ok(begun.elapsed()),
        Some(wrong) => Err(ProbeError::Control(wrong)),
    }
}

fn repeat(
    testbed: &Testbed,
    name: &str,
    most: Duration,
    guest_mib: u32,
    mut once: impl FnMut() -> Result<Duration, ProbeError>,
) -> Result<Verdict, ProbeError> {
    for _ in 0..WARM_UP {
        once()?;
    }
    let iterations = testbed.plan().iterations;
    let mut leak = Leak::watch(guest_mib);
    let turn = |turn| {
        testbed.progress().set(turn, iterations);
        leak.at(turn, iterations);
        once()
    };
    let samples = (0..iterations).map(turn).collect::<Result<Vec<_>, ProbeError>>()?;
    let mut breaches = leak.found();
    testbed.measured(name, &samples);
    let latency = Latency::of(&samples);
    let most = if testbed.plan().gates { most } else { Duration::MAX };
    breaches.extend(too_slow(&latency, most));
    let held = format!("p50 {:.2} ms, p99 {:.2} ms", latency.p50_ms, latency.p99_ms);
    let gate = testbed.plan().gates.then_some(most.as_millis() as u64);
    let evidence = json!({"iterations": samples.len(), "p50_at_most_ms": gate,
        "footprint": leak.evidence()});
    Ok(Verdict::of(&breaches, held, evidence))
}

fn too_slow(latency: &Latency, most: Duration) -> Option<String> {
    let most = most.as_secs_f64() * 1000.0;
    (latency.p50_ms > most).then(|| format!("p50 is {:.1} ms, more than {most:.0}", latency.p50_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowness_fails() {
        let latency = |ms| Latency::of(&[Duration::from_millis(ms)]);
        assert_eq!(too_slow(&latency(1), Duration::from_millis(2)), None);
        assert!(too_slow(&latency(3), Duration::from_millis(2)).is_some());
    }
}
