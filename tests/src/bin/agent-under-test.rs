//! The agent with everything real but its machines: for tests of what happens to commands, to
//! connections and to stores, which need no guest.
//!
//! `agent-under-test CONFIG DIR`. In DIR it looks for files that a test may change at any time:
//! `kill_at` (a milestone at which the process kills itself), `clock_offset_ms`, `diverge_next` (what
//! is wrong with the machine of the next command that ends: `disk`, `silent` or `reset`; the file is
//! removed then); and it appends to `runs.log` the id of every command it runs, and to `machines.log`
//! a line when its machines are halted or made anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's tool fails loudly"
)]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use brainstorm_agent::commands::executor::{Executor, MayBegin, ToolFacts};
use brainstorm_agent::commands::milestone::{Milestone, Observer};
use guest::registry::{CallError, Track};
use integration_tests::agent_process::{acquire_prerequisites, begin, give_up};
use protocol::message::WireState;
use protocol::timestamp::Timestamp;
use sandbox::verify::{Finding, Location, Source};
use sandbox::{
    Executed, Failure, PartialOutput, SandboxError, ToolCall, ToolOutcome, Verification,
};
use serde_json::{Map, Value};

fn main() {
    let (config, arguments) = begin();
    let [dir] = arguments.as_slice() else { panic!("agent-under-test CONFIG DIR") };
    let dir = PathBuf::from(dir);
    let mut prerequisites = acquire_prerequisites(config);
    let offset = dir.join("clock_offset_ms");
    prerequisites.clock = Arc::new(move || {
        let text = fs::read_to_string(&offset).unwrap_or_default();
        Timestamp::now().plus_millis(text.trim().parse().unwrap_or_default())
    });
    prerequisites.link.ping_every = Duration::from_millis(300);
    prerequisites.link.dead_after = Duration::from_secs(2);
    prerequisites.link.replaced_pause = Duration::from_secs(3);
    prerequisites.link.hello_timeout = Duration::from_secs(2);
    prerequisites.link.backoff.first = Duration::from_millis(100);
    prerequisites.link.backoff.most = Duration::from_millis(500);
    prerequisites.link.backoff.spread = Duration::from_millis(500);
    let executor = Arc::new(Tools { dir: dir.clone(), ended: AtomicBool::new(false) });
    let fuse = Box::new(Fuse(dir.join("kill_at")));
    prerequisites.serve(executor, Some(fuse)).unwrap_or_else(|error| give_up(&error));
}

/// Kills the process where a test wants it.
struct Fuse(PathBuf);

impl Observer for Fuse {
    fn reached(&self, _command_id: &str, milestone: Milestone) {
        let wanted = fs::read_to_string(&self.0).unwrap_or_default();
        if wanted.trim() == format!("{milestone:?}") {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}

struct Tools {
    dir: PathBuf,
    ended: AtomicBool,
}

impl Executor for Tools {
    fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<ToolFacts, CallError> {
        match tool {
            "echo" if !params.contains_key("message") => Err(CallError::InvalidParams {
                tool: tool.to_owned(),
                reason: "message is missing".to_owned(),
            }),
            "echo" | "sleep" | "fail" => Ok(ToolFacts {
                track: Track::DataProvider,
                deadline_ms: 30_000,
                estimated_duration_ms: 1,
            }),
            _ => Err(CallError::Unknown(tool.to_owned())),
        }
    }

    fn capacity(&self) -> usize {
        300
    }

    fn execute(&self, _tenant: &str, call: ToolCall, may_begin: MayBegin) -> Executed {
        if let Err(refused) = may_begin() {
            return Executed::refused(refused);
        }
        let begun = Instant::now();
        let mut log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.join("runs.log"))
            .unwrap();
        // In one piece: others append at the same time.
        log.write_all(format!("{}\n", call.command_id).as_bytes()).unwrap();
        let text = |name: &str| call.params.get(name).and_then(Value::as_str).unwrap_or_default();
        let ms = call.params.get("ms").and_then(Value::as_u64).unwrap_or_default();
        let until = begun + Duration::from_millis(ms);
        while Instant::now() < until {
            if self.ended.load(Ordering::SeqCst) {
                return Executed {
                    result: Err(Failure {
                        code: "SANDBOX_VSOCK_CLOSED",
                        message: "the machine was taken away".to_owned(),
                        partial: PartialOutput::default(),
                    }),
                    reset: None,
                    execute: begun.elapsed(),
                    reset_took: Duration::ZERO,
                };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let stdout = format!("{}\n", text("message")).into_bytes();
        let exit_code = i32::from(call.tool == "fail");
        let outcome = ToolOutcome {
            round_trip: begun.elapsed(),
            ..ToolOutcome::of_stdout(&call.command_id, exit_code, stdout)
        };
        Executed {
            result: Ok(outcome),
            reset: Some(self.reset()),
            execute: begun.elapsed(),
            reset_took: Duration::ZERO,
        }
    }

    fn state(&self) -> WireState {
        WireState::Ready
    }

    fn halt(&self, reason: &str) {
        self.note(&format!("halted: {reason}"));
    }

    fn resume(&self) {
        self.note("made anew");
    }

    fn abort(&self) {
        self.ended.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(50));
        self.ended.store(false, Ordering::SeqCst);
    }

    fn shut_down(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

impl Tools {
    fn note(&self, line: &str) {
        let path = self.dir.join("machines.log");
        let mut log = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        log.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// What is seen of the machine of a command that has ended.
    fn reset(&self) -> Result<Verification, SandboxError> {
        let order = self.dir.join("diverge_next");
        let wrong = fs::read_to_string(&order).unwrap_or_default();
        let _ = fs::remove_file(order);
        let silent = Verification { silent: true, descriptors: None, ..verified() };
        match wrong.trim() {
            "" => Ok(verified()),
            "disk" => {
                let location = Location::Block { number: 17 };
                let finding = Finding::new(Source::Disk, location, "sha256:11", "sha256:22");
                let disk_hash = Some(format!("sha256:{}", "cd".repeat(32)));
                Ok(Verification { disk_hash, findings: vec![finding], ..verified() })
            }
            "silent" => Ok(silent),
            "reset" => Err(SandboxError::ResetFailed { reason: "it stays as it is".to_owned() }),
            other => panic!("a machine cannot be {other}"),
        }
    }
}

/// What a machine would say that was reset and verified.
fn verified() -> Verification {
    let hash = format!("sha256:{}", "ab".repeat(32));
    Verification::agreeing(SystemTime::now(), hash.clone(), hash, 6)
}
