//! Every way in which a source can disagree, or say nothing, alone and together with others.

use sha2::{Digest, Sha256};

use super::*;
use crate::Process;

const DISK_BYTES: u64 = 5 << 16;
const GOLDEN: &str = "sha256:dd56de4137951d9c92681b03416ec15f886b4482a27e3a517d32f085244cbe5d";
const DISK: &str = "sha256:1044dec7206e8d7c9fbb4ae8f766668406d2567fc7fc1a160a9d4700fcf8f8e9";

type Change = fn(&mut Evidence);

fn of(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn golden() -> GoldenFacts {
    GoldenFacts { hash: of(b"golden"), disk_root: of(b"disk"), disk_bytes: DISK_BYTES }
}

/// What a machine in its golden state makes its sources say.
fn good() -> Evidence {
    Evidence {
        reset_at: SystemTime::UNIX_EPOCH,
        disk: Ok(of(b"disk")),
        descriptors: Descriptors::Count(7),
        run_state: RunState::Running,
        inventory: inventory(&["init"]),
        differences: Vec::new(),
        suspicions: Vec::new(),
        parts: VerificationParts::default(),
    }
}

fn inventory(names: &[&str]) -> GuestInventory {
    let processes = names.iter().zip(1..).map(|(name, pid)| Process { name: (*name).into(), pid });
    GuestInventory { processes: Some(processes.collect()), memory_used: Some(1 << 20) }
}

fn difference(source: Source, name: &str) -> Finding {
    Finding::new(source, Location::State { name: name.into() }, "as captured", "something else")
}

fn verify(change: impl FnOnce(&mut Evidence)) -> Verification {
    let mut evidence = good();
    change(&mut evidence);
    Baseline::measured(golden(), &good()).unwrap().verify(evidence)
}

fn refused(change: impl FnOnce(&mut GoldenFacts, &mut Evidence)) -> BaselineError {
    let (mut golden, mut evidence) = (golden(), good());
    change(&mut golden, &mut evidence);
    Baseline::measured(golden, &evidence).unwrap_err()
}

#[test]
fn three_sources_that_agree_pass() {
    let found = verify(|_| ());
    assert!(found.passed());
    assert_eq!(found.verdict(), Verdict::Passed);
    assert_eq!((found.findings.len(), found.failure()), (0, None));
    assert_eq!(found.golden_hash, GOLDEN);
    assert_eq!((found.disk_hash.as_deref(), &*found.golden_disk_hash), (Some(DISK), DISK));
    assert_eq!((found.descriptors, found.golden_descriptors), (Some(7), 7));
    assert_eq!(found.run_state, RunState::Running);
    let same = Verification::agreeing(SystemTime::UNIX_EPOCH, GOLDEN, DISK, 7);
    assert_eq!(found, same);
}

#[test]
fn any_one_source_that_disagrees_is_enough() {
    let disagreements: [(Change, Source, &str); 13] = [
        (|e| e.disk = Ok(of(b"other")), Source::Disk, "the whole disk is sha256:"),
        (|e| e.disk = Err("no disk".into()), Source::Disk, "not hashed (no disk)"),
        (|e| e.descriptors = Descriptors::Count(8), Source::Guest, "descriptors is 8, was 7"),
        (|e| e.descriptors = Descriptors::Count(6), Source::Guest, "descriptors is 6, was 7"),
        (|e| e.descriptors = Descriptors::Count(u64::MAX), Source::Guest, "9007199254740991"),
        (|e| e.descriptors = Descriptors::Unusable("lies".into()), Source::Guest, "(lies)"),
        (|e| e.inventory = inventory(&["init", "sleep"]), Source::Guest, "process 2 (sleep)"),
        (|e| e.run_state = RunState::Paused, Source::Monitor, "run state is paused"),
        (|e| e.run_state = RunState::Stopped, Source::Monitor, "run state is stopped"),
        (|e| e.run_state = RunState::Error, Source::Monitor, "run state is error"),
        (|e| e.differences = vec![difference(Source::Monitor, "PIT")], Source::Monitor, "PIT is"),
        (|e| e.differences = vec![difference(Source::Memory, "page")], Source::Memory, "page is"),
        (|e| e.differences = vec![difference(Source::Disk, "block")], Source::Disk, "block is"),
    ];
    for (change, source, says) in disagreements {
        let found = verify(change);
        assert_eq!(found.verdict(), Verdict::Diverged);
        assert!(!found.passed() && !found.silent);
        assert_eq!(found.findings.len(), 1, "{:?}", found.findings);
        assert_eq!(found.findings[0].source, source, "{says}");
        assert!(found.failure().unwrap().contains(says), "{:?}", found.failure());
    }
    assert_eq!(verify(|e| e.disk = Err(String::new())).disk_hash, None);
    for state in [RunState::Paused, RunState::Stopped, RunState::Held, RunState::Error] {
        assert_eq!(verify(|e| e.run_state = state).run_state, state);
    }
    for source in [Source::Monitor, Source::Memory] {
        let found = verify(|e| e.differences = vec![difference(source, "")]);
        assert_eq!(found.run_state, RunState::Error);
    }
    // What is told of the guest must not agree when the guest does not.
    let process = verify(|e| e.inventory = inventory(&["init", "sleep"]));
    assert_eq!(process.descriptors, None);
    let disk = verify(|e| e.differences = vec![difference(Source::Disk, "")]);
    assert_eq!(disk.run_state, RunState::Running);
    let unusable = verify(|e| e.descriptors = Descriptors::Unusable(String::new()));
    assert_eq!(unusable.descriptors, None);
}

#[test]
fn a_block_that_is_named_says_more_than_the_whole_disk() {
    let found = verify(|e| {
        e.disk = Ok(of(b"other"));
        e.differences = vec![difference(Source::Disk, "block 17")];
    });
    assert_eq!(found.findings, [difference(Source::Disk, "block 17")]);
    assert!(!found.disk_matches());
}

#[test]
fn a_machine_that_is_held_as_it_was_found_is_blamed_for_nothing_else() {
    let found = verify(|e| {
        e.disk = Err("the machine was not reset".into());
        e.descriptors = Descriptors::NotAsked;
        e.run_state = RunState::Held;
        e.differences = vec![difference(Source::Disk, "block 17")];
    });
    assert_eq!(found.findings, [difference(Source::Disk, "block 17")]);
    assert_eq!((found.run_state, found.descriptors), (RunState::Held, None));
    assert_eq!((found.verdict(), found.disk_hash), (Verdict::Diverged, None));
    // And without any finding it is not golden either: no reset has restored it.
    let found = verify(|e| e.run_state = RunState::Held);
    assert_eq!(found.verdict(), Verdict::Diverged);
}

#[test]
fn what_is_only_odd_passes_and_is_told() {
    let found = verify(|e| {
        e.suspicions = vec![difference(Source::Guest, "late")];
        e.inventory = GuestInventory { memory_used: Some(1 << 30), ..inventory(&["init"]) };
    });
    assert_eq!((found.verdict(), found.failure()), (Verdict::Passed, None));
    assert_eq!(found.suspicions.len(), 2, "{:?}", found.suspicions);
}

#[test]
fn so_many_findings_are_told_and_the_others_counted() {
    let found = verify(|e| e.differences = vec![difference(Source::Monitor, "PIT"); 100]);
    assert_eq!((found.findings.len(), found.more_findings), (MAX_FINDINGS, 36));
    let failure = found.failure().unwrap();
    assert!(failure.ends_with("; and 92 more") && failure.len() < 1000, "{failure}");
}

#[test]
fn silence_is_neither_agreement_nor_disagreement() {
    let silent = verify(|e| e.descriptors = Descriptors::Silent);
    assert_eq!(silent.verdict(), Verdict::Silent);
    assert!(silent.silent && !silent.passed() && silent.findings.is_empty());
    assert_eq!(silent.descriptors, None);
    assert!(silent.failure().unwrap().contains("did not answer"));
}

#[test]
fn silence_hides_no_disagreement() {
    let disagreements: [Change; 3] = [
        |e| e.disk = Ok(of(b"other")),
        |e| e.run_state = RunState::Paused,
        |e| e.differences = vec![difference(Source::Monitor, "PIT")],
    ];
    for change in disagreements {
        let found = verify(|evidence| {
            evidence.descriptors = Descriptors::Silent;
            change(evidence);
        });
        assert_eq!(found.verdict(), Verdict::Diverged);
        assert!(found.silent && found.findings.len() == 1);
        let failure = found.failure().unwrap();
        assert!(failure.contains("did not answer"), "{failure}");
    }
}

#[test]
fn a_state_that_is_not_running_is_not_called_running_because_of_a_difference() {
    let found = verify(|e| {
        e.run_state = RunState::Paused;
        e.differences = vec![difference(Source::Monitor, "PIT")];
    });
    assert_eq!(found.run_state, RunState::Paused);
}

#[test]
fn a_baseline_that_could_not_tell_a_disk_is_refused() {
    // 80 blocks: 64 and 16.
    let leaf: [u8; 32] = Sha256::new().chain_update([0; 4097]).finalize().into();
    let mut full = vec![leaf];
    for level in 0..6 {
        let below = full[level];
        let node = Sha256::new().chain_update([1]).chain_update(below).chain_update(below);
        full.push(node.finalize().into());
    }
    let zeros = Sha256::new().chain_update([1]).chain_update(full[6]).chain_update(full[4]);
    let trivial = [
        ([0; 32], "no hash but zeros"),
        (of(b""), "that of nothing"),
        (of(b"\n"), "that of an empty line"),
        (zeros.finalize().into(), "that of zeros"),
    ];
    for (hash, what) in trivial {
        let disk = refused(|golden, evidence| {
            golden.disk_root = hash;
            evidence.disk = Ok(hash);
        });
        assert_eq!(disk, BaselineError::TrivialDisk(what));
    }
    for hash in [[0; 32], of(b""), of(b"\n")] {
        let golden = refused(|golden, _| golden.hash = hash);
        assert!(matches!(golden, BaselineError::TrivialGolden(_)));
    }
    let other = refused(|golden, _| golden.disk_root = of(b"captured"));
    assert_eq!(other, BaselineError::OtherDisk);
    let none = refused(|_, evidence| evidence.disk = Err("no disk".into()));
    assert!(none.to_string().contains("no disk"), "{none}");
}

#[test]
fn a_baseline_of_a_machine_that_is_not_well_is_refused() {
    for count in [0, u64::MAX, i64::MAX as u64, (1 << 53) - 1] {
        let error = refused(|_, evidence| evidence.descriptors = Descriptors::Count(count));
        assert_eq!(error, BaselineError::Descriptors(count));
    }
    let silent = refused(|_, evidence| evidence.descriptors = Descriptors::Silent);
    assert!(matches!(silent, BaselineError::NoDescriptors(_)));
    let broken = refused(|_, e| e.descriptors = Descriptors::Unusable("lies".into()));
    assert!(broken.to_string().contains("lies"), "{broken}");
    let unasked = refused(|_, evidence| evidence.descriptors = Descriptors::NotAsked);
    assert!(unasked.to_string().contains("was not asked"), "{unasked}");
    let paused = refused(|_, evidence| evidence.run_state = RunState::Paused);
    assert!(paused.to_string().contains("paused"), "{paused}");
    let different =
        refused(|_, evidence| evidence.differences = vec![difference(Source::Monitor, "PIT")]);
    assert!(different.to_string().contains("PIT"), "{different}");
}

#[test]
fn another_baseline_gives_another_verdict() {
    let baseline = Baseline::measured(golden(), &good()).unwrap().with_descriptors(8);
    let found = baseline.verify(good());
    assert_eq!(found.verdict(), Verdict::Diverged);
    assert_eq!((found.descriptors, found.golden_descriptors), (Some(7), 8));
}
