//! Every lie is caught: one bit changed behind the back of a machine that runs a real guest, or a
//! guest that is not what it says it is, at the worst moment of a verified reset.
//!
//! One golden state serves all cases; each has a fork of its own, which ends with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use brainstorm_agent::degraded::DegradedMode;
use brainstorm_agent::degraded::explain::explain;
use integration_tests::{RawConnection, Received, dispatch};
use sandbox::KvmSource;
use sandbox::pool::{OnFault, Pool, PoolConfig};
use sandbox::verify::{Location, RunState, Source};
use sandbox::{
    FaultPoint, ImageSource, KvmConfig, KvmSandbox, Resets, Sandbox, SandboxSpec, SandboxState,
    ToolCall, Verdict, Verification, VerifiedReset,
};
use serde_json::json;
use tempfile::TempDir;
use vmm::{IntegrityPlan, Machine, Tamper};

const DIVERGENCE: &str = "ENDPOINT_RESET_VERIFICATION_DIVERGENCE";
const TIMEOUT: &str = "ENDPOINT_RESET_VERIFICATION_TIMEOUT";
/// RAM that the guest has no use for.
const FAR: u64 = 100 << 20;
/// The start of the kernel, which is run once.
const KERNEL: u64 = 16 << 20;
const GUEST_PORT: u32 = 52000;
const PATIENCE: Duration = Duration::from_secs(30);

/// What is done to a machine.
type Deed = fn(&Machine);

/// One lie, and who has to tell of it.
struct Lie {
    name: &'static str,
    when: FaultPoint,
    deed: Deed,
    source: Source,
    /// Part of the place's name.
    place: &'static str,
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        enable_tools: vec!["sh".into()],
        resets: Resets::Verified,
        ..SandboxSpec::new(ImageSource::directory(integration_tests::image_dir()))
    }
}

fn golden() -> &'static KvmSandbox {
    static GOLDEN: OnceLock<KvmSandbox> = OnceLock::new();
    GOLDEN.get_or_init(|| {
        let sandbox = KvmSandbox::new(spec(), KvmConfig::default());
        sandbox.boot().unwrap();
        sandbox
    })
}

fn shell(script: &str) -> ToolCall {
    ToolCall::new("sh", json!({"script": script}).as_object().cloned().unwrap())
}

/// A sandbox in use whose incidents are latched in a directory, as the agent's are.
struct Watched {
    sandbox: KvmSandbox,
    degraded: Arc<DegradedMode>,
    state_dir: TempDir,
}

impl Watched {
    fn fork() -> Self {
        Self::of(KvmSandbox::fork_of(golden()).unwrap())
    }

    fn of(sandbox: KvmSandbox) -> Self {
        let state_dir = tempfile::tempdir().unwrap();
        let degraded = Arc::new(DegradedMode::open(state_dir.path()));
        sandbox.set_incident_handler(Arc::clone(&degraded) as _);
        sandbox.boot().unwrap();
        Self { sandbox, degraded, state_dir }
    }

    /// A command that leaves something everywhere, and a verified reset.
    fn cycle(&self) -> Verification {
        let outcome = self.sandbox.execute_tool(shell("echo secret > /work/secret; sync")).unwrap();
        assert_eq!(outcome.exit_code, 0, "{outcome:?}");
        let VerifiedReset { outcome, verification } = self.sandbox.reset_verified().unwrap();
        // What the disk had to hide is found before anything is wiped.
        assert_eq!(
            outcome.is_none(),
            verification.findings.iter().any(|f| f.source == Source::Disk)
        );
        verification
    }

    /// Does `deed` at the first such moment of the next verified reset.
    fn meddle(&self, when: FaultPoint, mut deed: impl FnMut(&Machine) + Send + 'static) {
        let mut done = false;
        self.sandbox.inject_faults(Box::new(move |moment, machine| {
            if moment == when && !done {
                done = true;
                deed(machine);
            }
        }));
    }

    /// Halted, latched, explained, and never used again.
    fn assert_halted(&self, verification: &Verification, code: &str, place: &str) {
        assert!(!verification.passed());
        let record = self.degraded.current().expect("nothing was latched");
        assert_eq!(record.code, code);
        let again = DegradedMode::open(self.state_dir.path());
        assert_eq!(again.current().expect("the latch is not on disk").code, code);
        let explanation = explain(self.state_dir.path());
        let words = explanation.in_words();
        assert!(explanation.degraded && words.contains(place), "{words}");
        assert!(words.contains("clear --reason"), "{words}");
        let bundle = record.bundle.as_ref().expect("nothing was saved");
        assert!(self.state_dir.path().join(bundle).join("report.json").is_file());

        assert!(matches!(self.sandbox.state(), SandboxState::Failed { .. }));
        assert!(self.sandbox.machine().is_none());
        let refused = self.sandbox.execute_tool(shell("true")).unwrap_err();
        assert_eq!(refused.code(), "SANDBOX_NOT_AVAILABLE");
        assert_eq!(self.sandbox.reset_verified().unwrap_err().code(), "SANDBOX_NOT_AVAILABLE");
    }
}

/// Tells the lie to a machine in use, and sees who notices.
fn assert_caught(lie: &Lie) {
    assert_caught_by(&Watched::fork(), lie);
}

fn assert_caught_by(watched: &Watched, lie: &Lie) {
    let before = watched.cycle();
    assert!(before.passed(), "before anything was done to it: {before:#?}");
    assert!(watched.degraded.current().is_none());
    let machine = watched.sandbox.machine().unwrap();
    watched.meddle(lie.when, lie.deed);
    let verification = watched.cycle();
    assert_eq!(verification.verdict(), Verdict::Diverged, "{verification:#?}");
    let named = verification.findings.iter().any(|finding| {
        finding.source == lie.source && finding.location.to_string().contains(lie.place)
    });
    assert!(named, "{} {} is not among {:#?}", lie.source, lie.place, verification.findings);
    if lie.source == Source::Monitor {
        assert_ne!(verification.run_state, RunState::Running);
    }
    if lie.source == Source::Disk {
        assert!(!verification.disk_matches());
    }
    watched.assert_halted(&verification, DIVERGENCE, lie.place);
    assert!(machine.stop_reason().is_some(), "the machine still lives");
}

/// All of them, so that one that is not caught hides no other.
fn assert_all_caught(lies: &[Lie]) {
    let not_caught = |lie: &&Lie| catch_unwind(AssertUnwindSafe(|| assert_caught(lie))).is_err();
    let names: Vec<_> = lies.iter().filter(not_caught).map(|lie| lie.name).collect();
    assert!(names.is_empty(), "not caught as they should be: {names:#?}");
}

fn tamper(machine: &Machine, what: Tamper) {
    machine.tamper(what).unwrap();
}

/// A block that is as the image has it.
fn clean_block(machine: &Machine) -> u64 {
    let dirty = machine.dirty_blocks().unwrap();
    (0..1024).find(|block| !dirty.contains(block)).unwrap()
}

#[test]
fn on_the_disk() {
    let flip_dirty = |machine: &Machine| {
        // The image's disk is read only to its guest: this stands for a write of the kernel's.
        let block = clean_block(machine);
        machine.write_disk(block * 4096, &[7; 4096]).unwrap();
        tamper(machine, Tamper::Overlay { block });
    };
    let flip_clean =
        |machine: &Machine| tamper(machine, Tamper::Base { block: clean_block(machine) });
    assert_all_caught(&[
        Lie {
            name: "a block that was written, before the reset",
            when: FaultPoint::Held,
            deed: flip_dirty,
            source: Source::Disk,
            place: "block ",
        },
        Lie {
            name: "a block of the base as the guest reads it, before the reset",
            when: FaultPoint::Held,
            deed: flip_clean,
            source: Source::Disk,
            place: "block ",
        },
    ]);
}

#[test]
fn in_memory() {
    assert_all_caught(&[
        Lie {
            name: "a clean page, before the reset",
            when: FaultPoint::Held,
            deed: |machine| tamper(machine, Tamper::CleanPage { address: FAR + 5 }),
            source: Source::Memory,
            place: "page 0x6400000",
        },
        Lie {
            name: "a clean page, after the reset",
            when: FaultPoint::Reset,
            deed: |machine| tamper(machine, Tamper::CleanPage { address: FAR + 5 }),
            source: Source::Memory,
            place: "page 0x6400000",
        },
        Lie {
            name: "a clean page of the kernel",
            when: FaultPoint::Reset,
            deed: |machine| tamper(machine, Tamper::CleanPage { address: KERNEL }),
            source: Source::Memory,
            place: "page 0x1000000",
        },
        Lie {
            name: "a dirty page after it was copied back",
            when: FaultPoint::Reset,
            deed: |machine| tamper(machine, Tamper::RestoredPage),
            source: Source::Memory,
            place: "page 0x",
        },
        Lie {
            name: "a page the log was made to miss",
            when: FaultPoint::Held,
            deed: |machine| tamper(machine, Tamper::HideDirtyPage { address: FAR + 0x1007 }),
            source: Source::Memory,
            place: "page 0x6401000",
        },
    ]);
}

#[test]
fn in_the_state_of_processors_and_devices() {
    let state = |name, deed, place| Lie {
        name,
        when: FaultPoint::Reset,
        deed,
        source: Source::Monitor,
        place,
    };
    assert_all_caught(&[
        state("a register", |machine| tamper(machine, Tamper::Register), "vCPU 0: registers"),
        state("an MSR", |machine| tamper(machine, Tamper::Msr), "MSR 0xc0000102"),
        state(
            "an interrupt controller",
            |machine| tamper(machine, Tamper::InterruptController),
            "I/O APIC",
        ),
        state("a queue index", |machine| tamper(machine, Tamper::QueueIndex), "device block"),
    ]);
}

/// Without an injector the reset and the check are one step.
#[test]
fn to_a_machine_that_is_put_back_and_checked_in_one() {
    let watched = Watched::fork();
    assert!(watched.cycle().passed());
    let machine = watched.sandbox.machine().unwrap();
    machine.pause().unwrap();
    tamper(&machine, Tamper::CleanPage { address: FAR + 5 });
    machine.resume().unwrap();
    let verification = watched.cycle();
    assert_eq!(verification.verdict(), Verdict::Diverged, "{verification:#?}");
    watched.assert_halted(&verification, DIVERGENCE, "page 0x6400000");
}

#[test]
fn what_is_saved_shows_every_register_as_it_was_found() {
    let watched = Watched::fork();
    watched.meddle(FaultPoint::Reset, |machine| tamper(machine, Tamper::Register));
    assert!(!watched.cycle().passed());
    let bundle = watched.degraded.current().unwrap().bundle.clone().unwrap();
    let state =
        fs::read_to_string(watched.state_dir.path().join(bundle).join("state.txt")).unwrap();
    let line = |name: &str| {
        let start = format!("vCPU 0 {name}: ");
        state.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{state}"))
    };
    assert!(line("rbx").contains(", captured 0x"), "{state}");
    assert!(!line("rip").contains("captured") && !line("cr3").contains("captured"), "{state}");
}

/// How long it takes until golden memory that was changed while no command came is noticed, if it is
/// within `limit`.
fn noticed_while_idle(scrub_every: Option<Duration>, limit: Duration) -> Option<Duration> {
    // Golden memory is every machine's: this one has its own.
    let Watched { sandbox, degraded, state_dir } =
        Watched::of(KvmSandbox::new(spec(), KvmConfig::default()));
    let machine = sandbox.machine().unwrap();
    let (on_fault, machines) = (OnFault::Halt, PoolConfig::new(1));
    let config = PoolConfig { on_fault, scrub_every, ..machines };
    let pool = Pool::start(KvmSource::new(sandbox).unwrap(), config).unwrap();
    pool.wait_until_warm(PATIENCE).unwrap();
    machine.pause().unwrap();
    tamper(&machine, Tamper::Golden { address: KERNEL });
    machine.resume().unwrap();
    let begun = Instant::now();
    while pool.halted().is_none() && begun.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
    pool.halted()?;
    let took = begun.elapsed();
    let record = degraded.current().expect("nothing was latched");
    assert_eq!((record.code.as_str(), record.command_id.as_ref()), (DIVERGENCE, None));
    let words = explain(state_dir.path()).in_words();
    assert!(words.contains("golden page 0x1000000"), "{words}");
    assert!(state_dir.path().join(record.bundle.as_ref().unwrap()).join("pages").is_dir());
    assert_eq!(pool.metrics().counters.calls, 0);
    Some(took)
}

#[test]
fn in_golden_memory_while_no_call_uses_the_machine() {
    let often = Some(Duration::from_millis(1));
    let took =
        noticed_while_idle(often, Duration::from_secs(300)).expect("the scrub did not notice");
    // Without the scrub it stays unnoticed.
    assert_eq!(noticed_while_idle(None, took * 2), None);
}

/// Golden memory is every machine's: this sandbox has its own.
#[test]
fn in_golden_memory() {
    let config = KvmConfig { integrity: IntegrityPlan::deep(), ..KvmConfig::default() };
    let watched = Watched::of(KvmSandbox::new(spec(), config));
    assert_caught_by(
        &watched,
        &Lie {
            name: "golden memory",
            when: FaultPoint::Reset,
            deed: |machine| tamper(machine, Tamper::Golden { address: KERNEL }),
            source: Source::Memory,
            place: "golden page 0x1000000",
        },
    );
}

#[test]
fn by_a_process_that_holds_or_ends_the_machine() {
    let hold = |name, when| Lie {
        name,
        when,
        deed: |machine| machine.pause().unwrap(),
        source: Source::Monitor,
        place: "run state",
    };
    assert_all_caught(&[
        hold("paused when it runs again", FaultPoint::Running),
        hold("paused when it is asked", FaultPoint::Asking),
        hold("paused when it has answered", FaultPoint::Asked),
        Lie {
            name: "ended",
            when: FaultPoint::Running,
            deed: Machine::shutdown,
            source: Source::Monitor,
            place: "run state",
        },
    ]);
}

/// Keeps connections whose end would end what they began.
static OPEN: Mutex<Vec<RawConnection>> = Mutex::new(Vec::new());

/// Starts a tool that does not end, on a connection of its own.
fn start(machine: &Machine, script: &str) {
    let stream = machine.vsock().connect(GUEST_PORT, PATIENCE).unwrap();
    let mut connection = RawConnection { stream };
    connection.send(&dispatch("left-behind", "sh", &json!({"script": script}), 600_000));
    // It runs when it has written something.
    while !matches!(connection.receive(), Received::Frame(frame) if frame["type"] == "EvidenceChunk")
    {
    }
    OPEN.lock().unwrap().push(connection);
}

#[test]
fn in_the_guest() {
    assert_all_caught(&[
        Lie {
            name: "a descriptor left open",
            when: FaultPoint::Running,
            deed: |machine| start(machine, "exec 7< /etc/passwd; echo open; sleep 1000"),
            source: Source::Guest,
            place: "open descriptors",
        },
        Lie {
            name: "a process left running",
            when: FaultPoint::Running,
            deed: |machine| start(machine, "sleep 1000 & echo running; wait"),
            source: Source::Guest,
            place: "process ",
        },
        Lie {
            name: "a guest program that is not the one that was measured",
            when: FaultPoint::Running,
            deed: change_guest_program,
            source: Source::Guest,
            place: "open descriptors",
        },
    ]);
    OPEN.lock().unwrap().clear();
}

/// Changes a word of the guest program's answers, wherever it is in memory, after memory was read.
fn change_guest_program(machine: &Machine) {
    const WORD: &[u8] = b"open_fd_count";
    const STEP: usize = 1 << 20;
    machine.pause().unwrap();
    let mut changed = 0;
    let mut bytes = vec![0; STEP + WORD.len()];
    for at in (1..120).map(|mib| mib * STEP) {
        if machine.read_memory(at as u64, &mut bytes).is_err() {
            continue;
        }
        for (offset, found) in bytes.windows(WORD.len()).enumerate() {
            if found == WORD && offset < STEP {
                let address = (at + offset) as u64;
                tamper(machine, Tamper::CleanPage { address });
                changed += 1;
            }
        }
    }
    assert!(changed > 0, "the guest program is not in memory");
    machine.resume().unwrap();
}

/// Pauses the guest for this many questions, so that it does not run while it is asked.
fn be_slow(watched: &Watched, questions: usize) {
    let mut asked = 0;
    watched.sandbox.inject_faults(Box::new(move |moment, machine| match moment {
        FaultPoint::Asking => {
            asked += 1;
            if asked <= questions {
                machine.pause().unwrap();
            }
        }
        FaultPoint::Asked if machine.is_paused() => machine.resume().unwrap(),
        _ => {}
    }));
}

#[test]
fn a_guest_that_is_two_seconds_late_passes_and_is_remarked_on() {
    let watched = Watched::fork();
    be_slow(&watched, 1);
    let verification = watched.cycle();
    assert!(verification.passed(), "{verification:#?}");
    assert!(verification.parts.guest >= Duration::from_secs(2));
    let odd = verification.suspicions.iter().any(|finding| finding.location == Location::Answer);
    assert!(odd, "{verification:#?}");
    assert!(watched.degraded.current().is_none());
    assert!(watched.cycle().passed());
}

#[test]
fn a_guest_that_has_stopped_or_is_eight_seconds_late_is_a_timeout() {
    let watched = Watched::fork();
    be_slow(&watched, usize::MAX);
    let verification = watched.cycle();
    assert_eq!(verification.verdict(), Verdict::Silent, "{verification:#?}");
    assert!(verification.disk_matches() && verification.findings.is_empty());
    watched.assert_halted(&verification, TIMEOUT, "guest    silent");
}
