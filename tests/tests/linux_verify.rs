//! Verified resets of real Linux guests: what passes, what is said of it, and what becomes of those
//! that do not come to their end. Lies are in `linux_lies`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandbox::KvmSource;
use sandbox::pool::{CallOptions, OnFault, Pool, PoolConfig, PressureLevel};
use sandbox::verify::RunState;
use sandbox::{
    FaultPoint, ImageSource, Incident, IncidentHandler, KvmConfig, KvmSandbox, Resets, Sandbox,
    SandboxSpec, SandboxState, ToolCall, Verdict, VerifiedReset,
};
use serde_json::{Map, json};
use vmm::{IntegrityPlan, Tamper};

/// A test changes memory of this process that it finds by name: no other machine may be here then.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        enable_tools: vec!["sh".into()],
        resets: Resets::Verified,
        ..SandboxSpec::new(ImageSource::directory(integration_tests::image_dir()))
    }
}

fn booted() -> KvmSandbox {
    let sandbox = KvmSandbox::new(spec(), KvmConfig::default());
    sandbox.boot().unwrap();
    sandbox
}

fn echo() -> ToolCall {
    ToolCall::new("echo", Map::from_iter([("message".to_owned(), "hello".into())]))
}

fn shell(script: &str) -> ToolCall {
    ToolCall::new("sh", json!({"script": script}).as_object().cloned().unwrap())
}

/// One `echo` and a verified reset.
fn cycle(sandbox: &KvmSandbox) -> VerifiedReset {
    assert_eq!(sandbox.execute_tool(echo()).unwrap().exit_code, 0);
    sandbox.reset_verified().unwrap()
}

/// Does something to the machine at one moment of the next verified reset.
fn meddle(
    sandbox: &KvmSandbox,
    when: FaultPoint,
    mut how: impl FnMut(&vmm::Machine) + Send + 'static,
) {
    sandbox.inject_faults(Box::new(move |moment, machine| {
        if moment == when {
            how(machine);
        }
    }));
}

/// The machine is gone, and every caller gets the reason.
fn assert_ended(sandbox: &KvmSandbox, why: &str) {
    let SandboxState::Failed { reason } = sandbox.state() else { panic!("{:?}", sandbox.state()) };
    assert!(reason.contains(why), "{reason}");
    assert!(sandbox.machine().is_none());
    let error = sandbox.execute_tool(echo()).unwrap_err();
    assert_eq!(error.code(), "SANDBOX_NOT_AVAILABLE");
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(sandbox.reset_verified().unwrap_err().code(), "SANDBOX_NOT_AVAILABLE");
}

#[test]
fn a_reset_after_a_tool_passes_with_real_values() {
    let _alone = alone();
    let sandbox = booted();
    for _ in 0..20 {
        let VerifiedReset { outcome, verification } = cycle(&sandbox);
        assert!(verification.passed(), "{verification:?}");
        assert!(outcome.unwrap().dirty_pages > 0);
        let disk_hash = verification.disk_hash.as_ref().unwrap();
        let hash = disk_hash.strip_prefix("sha256:").unwrap();
        assert!(hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_eq!(*disk_hash, verification.golden_disk_hash);
        assert_ne!(verification.golden_hash, *disk_hash);
        let descriptors = verification.descriptors.unwrap();
        assert!((3..200).contains(&descriptors), "{verification:?}");
        assert_eq!(descriptors, verification.golden_descriptors);
        assert_eq!(verification.run_state, RunState::Running);
        assert_eq!((verification.silent, verification.findings.len()), (false, 0));
    }
    // The next command begins bit for bit where the golden state ends.
    assert_eq!(sandbox.reset_and_compare().unwrap().1.to_string(), "nothing");
}

#[test]
fn traces_of_a_tool_are_gone_before_the_sources_are_asked() {
    let _alone = alone();
    let sandbox = booted();
    for _ in 0..3 {
        let script = "echo secret > /work/secret; sync; exec 7< /etc/passwd; sleep 1000 & ls /work";
        let outcome = sandbox.execute_tool(shell(script)).unwrap();
        assert_eq!(outcome.stdout, b"secret\n");
        let verified = sandbox.reset_verified().unwrap();
        assert!(verified.verification.passed(), "{verified:?}");
        assert!(verified.outcome.unwrap().dirty_pages > 0);
    }
}

#[test]
fn a_verification_without_its_last_reset_leaves_only_the_traces_of_a_question() {
    let _alone = alone();
    let sandbox = booted();
    sandbox.execute_tool(echo()).unwrap();
    assert!(sandbox.reset_and_verify().unwrap().verification.passed());
    assert!(!sandbox.compare().unwrap().is_empty());
    assert_eq!(sandbox.execute_tool(echo()).unwrap().stdout, b"hello\n");
}

#[test]
fn several_processors_and_a_tool_that_ran_out_of_time_pass_too() {
    let _alone = alone();
    let sandbox = KvmSandbox::new(SandboxSpec { vcpus: 2, ..spec() }, KvmConfig::default());
    sandbox.boot().unwrap();
    for _ in 0..5 {
        let verified = cycle(&sandbox);
        assert!(verified.verification.passed(), "{verified:?}");
    }
    let late = ToolCall { deadline_ms: 500, ..shell("echo x > /work/x; sleep 1000") };
    assert_eq!(sandbox.execute_tool(late).unwrap_err().code(), "SANDBOX_TOOL_TIMEOUT");
    let verified = sandbox.reset_verified().unwrap();
    assert!(verified.verification.passed(), "{verified:?}");
}

/// Flips bits in the private mappings of disks, as a debugger on the host would: the overlay does
/// not know, and no reset brings the bytes back.
fn flip_bits_on_disk() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
    let mappings =
        maps.lines().filter(|line| line.contains("/memfd:disk") && line.contains(" rw-p "));
    let mut flipped = 0;
    for mapping in mappings {
        let start = mapping.split('-').next().unwrap();
        // Block 0: a file system leaves its first 1024 bytes alone.
        let address = u64::from_str_radix(start, 16).unwrap();
        let mut byte = [0];
        memory.read_exact_at(&mut byte, address).unwrap();
        memory.write_all_at(&[byte[0] ^ 1], address).unwrap();
        flipped += 1;
    }
    flipped
}

/// Everything is read again with every reset.
fn booted_deep() -> KvmSandbox {
    let config = KvmConfig { integrity: IntegrityPlan::deep(), ..KvmConfig::default() };
    let sandbox = KvmSandbox::new(spec(), config);
    sandbox.boot().unwrap();
    sandbox
}

/// Keeps what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<Incident>>);

impl IncidentHandler for Told {
    fn on_incident(&self, incident: Incident) {
        self.0.lock().unwrap().push(incident);
    }
}

impl Told {
    fn only(&self) -> Incident {
        let told = self.0.lock().unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
        told[0].clone()
    }
}

fn guarded(sandbox: &KvmSandbox) -> Arc<Told> {
    let told = Arc::new(Told::default());
    sandbox.set_incident_handler(Arc::clone(&told) as _);
    told
}

#[test]
fn a_bit_flipped_on_the_disk_between_commands_is_caught() {
    let _alone = alone();
    let sandbox = booted_deep();
    let told = guarded(&sandbox);
    assert!(cycle(&sandbox).verification.passed());
    assert_eq!(flip_bits_on_disk(), 1);
    let VerifiedReset { verification, .. } = cycle(&sandbox);
    assert!(!verification.disk_matches(), "{verification:?}");
    assert_eq!(verification.verdict(), Verdict::Diverged, "{verification:?}");
    assert_ended(&sandbox, "disk: block 0 ");
    let incident = told.only();
    assert!(incident.command_id.is_some());
    let exhibit = &incident.dump.blocks[0];
    assert_eq!(exhibit.location, 0);
    let differing = exhibit.found.iter().zip(exhibit.golden.as_ref().unwrap());
    assert_eq!(differing.filter(|(found, golden)| found != golden).count(), 1);
    assert!(!incident.dump.state.is_empty());
    // The golden disk was out of reach: a new machine is as it should be.
    sandbox.boot().unwrap();
    assert!(cycle(&sandbox).verification.passed());
}

#[test]
fn a_deadline_does_not_wipe_what_was_changed() {
    let _alone = alone();
    let sandbox = booted();
    let told = guarded(&sandbox);
    let machine = sandbox.machine().unwrap();
    let meddling = std::thread::spawn(move || {
        // The tool has written by then, and stays until it is taken away.
        let until = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            machine.pause().unwrap();
            let dirty = machine.dirty_blocks().unwrap();
            if let Some(&block) = dirty.first() {
                machine.tamper(Tamper::Overlay { block }).unwrap();
                // It stays paused: the guest cannot kill its tool, the host has to.
                return;
            }
            machine.resume().unwrap();
            assert!(std::time::Instant::now() < until, "nothing was written");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let late = ToolCall { deadline_ms: 8000, ..shell("echo x > /work/x; sleep 1000") };
    assert_eq!(sandbox.execute_tool(late).unwrap_err().code(), "SANDBOX_TOOL_TIMEOUT");
    meddling.join().unwrap();
    // It was found when the host took the machine away, and the next verified reset returns it.
    assert_eq!(told.only().dump.blocks.len(), 1);
    let verification = sandbox.reset_and_verify().unwrap().verification;
    assert_eq!(verification.verdict(), Verdict::Diverged, "{verification:?}");
    assert_ended(&sandbox, "disk: block ");
}

#[test]
fn a_verification_that_does_not_come_to_its_end_ends_the_machine() {
    let _alone = alone();
    let sandbox = booted();
    meddle(&sandbox, FaultPoint::Running, |_| panic!("as the test wanted"));
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cycle(&sandbox)));
    assert!(unwound.is_err());
    assert_ended(&sandbox, "not finished");
}

#[test]
fn machines_of_a_pool_are_verified_with_one_baseline() {
    let _alone = alone();
    let source = KvmSource::new(booted_deep()).unwrap();
    let config = PoolConfig { on_fault: OnFault::Halt, ..PoolConfig::new(2) };
    let pool = Pool::start_with_pressure(source, config, || PressureLevel::None);
    let pool = pool.unwrap();
    assert_eq!(pool.wait_until_warm(Duration::from_secs(60)).unwrap(), 2);
    let options = CallOptions { verify: true, ..CallOptions::default() };
    let mut baselines = std::collections::HashSet::new();
    for _ in 0..10 {
        let call = shell("ls -A /work; echo secret > /work/secret");
        let outcome = pool.execute_with("tenant", call, options, |_| Ok(())).unwrap();
        assert_eq!(outcome.result.unwrap().stdout, b"");
        let found = outcome.verification.unwrap().unwrap();
        assert!(found.passed() && outcome.reset.unwrap().is_ok(), "{found:?}");
        baselines.insert((found.golden_hash, found.golden_disk_hash, found.golden_descriptors));
    }
    assert_eq!(baselines.len(), 1);
    let counters = pool.metrics().counters;
    assert_eq!((counters.verified, counters.failed_verifications), (10, 0));
    // Both machines, used or not.
    assert!(flip_bits_on_disk() >= 2);
    let outcome = pool.execute_with("tenant", echo(), options, |_| Ok(())).unwrap();
    assert!(outcome.result.is_ok());
    assert!(!outcome.verification.unwrap().unwrap().disk_matches());
    assert_eq!(pool.metrics().counters.failed_verifications, 1);
    // No call gets the other machine; those that are made anew are good.
    let refused = pool.execute("tenant", echo()).unwrap_err();
    assert_eq!(refused.code(), "ENDPOINT_INTEGRITY_MONITOR_TRIPPED");
    pool.resume();
    let outcome = pool.execute_with("tenant", echo(), options, |_| Ok(())).unwrap();
    let found = outcome.verification.unwrap().unwrap();
    assert!(found.passed(), "{found:?}");
}

#[test]
fn a_machine_from_a_snapshot_measures_what_the_first_one_measured() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("golden");
    let sandbox = booted();
    sandbox.save_snapshot(&path).unwrap();
    let restored = KvmSandbox::from_snapshot(spec(), KvmConfig::default(), &path).unwrap();
    assert!(restored.baseline().is_none());
    restored.boot().unwrap();
    let values = |sandbox: &KvmSandbox| {
        let measured = sandbox.baseline().unwrap();
        (measured.golden_hash(), measured.disk_root(), measured.descriptors())
    };
    assert_eq!(values(&restored), values(&sandbox));
    assert!(cycle(&restored).verification.passed());
}

#[test]
fn without_a_baseline_nothing_is_called_verified() {
    let _alone = alone();
    let sandbox = KvmSandbox::new(spec().with_resets(Resets::Unverified), KvmConfig::default());
    sandbox.boot().unwrap();
    let error = sandbox.reset_verified().unwrap_err();
    assert!(error.to_string().contains("verified resets"), "{error}");
    assert_eq!(sandbox.state(), SandboxState::Ready);
}
