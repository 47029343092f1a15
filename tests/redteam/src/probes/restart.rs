//! An agent that dies in the middle of a command leaves no machine, and its successor answers for
//! the command without running it again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::machines::Machines;
use super::persistence;
use super::reconnect::{looked_at, runtime, short};
use super::served::{JOURNAL, Served};
use super::signer::{Envelope, OTHER, SESSION, failed};
use crate::scratch::Scratch;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict, search};
use protocol::Timestamp;

/// The agent dies in the middle of a command.
pub const PROBE: FnProbe = FnProbe {
    name: "restart",
    class: AttackerClass::A6,
    expectation: Expectation::ShouldFail,
    description: "An agent with a machine is killed: the machine is gone with it. Another one is \
                  started on the stores of an agent as they were in the middle of a command: it \
                  says that the command failed, takes it no second time, and the next command \
                  finds a verified machine without a mark of it",
    repeats: false,
    run,
};

/// How long the command runs, in milliseconds: until its agent is dead.
const STAY_MS: u64 = 5000;
/// How the kernel names a machine among the descriptors of a process.
const MACHINE: &str = "anon_inode:kvm-vm";
/// How long a killed process may take to give back its machine.
const BURIAL: Duration = Duration::from_secs(10);

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.kvm(Guest::Shipped)?;
    persistence::control(testbed, &sandbox)?;
    let (breach, killed) = kill_one(testbed)?;
    let runtime = runtime()?;
    let attacked = runtime.block_on(die(testbed));
    runtime.shutdown_background();
    let (mut breaches, seen) = attacked?;
    breaches.extend(breach);
    let held = "no machine outlived its agent, and its command was answered for once";
    Ok(Verdict::of(&breaches, held, json!({"killed": killed, "successor": seen})))
}

/// Kills an agent while it runs a tool.
fn kill_one(testbed: &Testbed) -> Result<(Option<String>, Value), ProbeError> {
    let others = with_machines();
    let mut agent = Agent::start(&testbed.plan().agent, &testbed.plan().sandbox.image.dir)?;
    let begun = Instant::now();
    while machines_of(agent.0.id()) == 0 {
        if begun.elapsed() > testbed.plan().deadline() || agent.0.try_wait()?.is_some() {
            return Err(failed("an agent of its own makes no machine"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.0.kill()?;
    agent.0.wait()?;
    let killed = Instant::now();
    loop {
        let left: Vec<u32> = with_machines().difference(&others).copied().collect();
        let evidence = json!({"processes_with_its_machine": left,
            "after_ms": killed.elapsed().as_millis() as u64});
        if left.is_empty() {
            return Ok((None, evidence));
        }
        if killed.elapsed() > BURIAL {
            return Ok((Some("the machine of a killed agent is still there".into()), evidence));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process of the agent, killed when dropped.
struct Agent(Child);

impl Agent {
    fn start(program: &Path, image: &Path) -> Result<Self, ProbeError> {
        let agent = Command::new(program)
            .arg("--image-dir")
            .arg(image)
            .args(["exec", "attack_hold", "--param", "how=spins"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| {
                let program = program.display();
                failed(format!("starting {program}: {e}; name the agent with --agent"))
            })?;
        Ok(Self(agent))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Number of machines that a process has.
fn machines_of(process: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_str().is_some_and(|name| name == MACHINE)).count()
}

/// Processes that have machines.
fn with_machines() -> BTreeSet<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|number| machines_of(*number) > 0).collect()
}

/// Ends an agent in the middle of a command and starts another one on its stores.
async fn die(testbed: &Testbed) -> Result<(Vec<String>, Value), ProbeError> {
    let (first, second) = (Scratch::new()?, Scratch::new()?);
    let (marker, now) = (search::marker(), Timestamp::now());
    let patience = testbed.plan().budget;
    let machines = || tokio::task::block_in_place(|| Machines::of(testbed));
    let served = Served::start(first.path(), machines()?).await?;
    let mut relay = served.connect(SESSION, patience);
    let marking = Envelope::of(now, "attack_mark", json!({"marker": marker, "stay_ms": STAY_MS}));
    served.send(&relay, marking.signed()?);
    relay.started(marking.id()).await?;
    // The stores as a successor finds them after the agent died.
    copy(first.path(), second.path())?;
    if testbed.plan().leaves_out("journal") {
        forget_journal(second.path())?;
    }
    drop(relay);
    served.end().await;

    let served = Served::start(second.path(), machines()?).await?;
    let mut relay = served.connect(OTHER, patience.min(PATIENCE));
    let mut breaches = Vec::new();
    let answered = relay.end_of(marking.id()).await.unwrap_or_else(|_| {
        breaches.push("no agent answers for the command of the agent that died".to_owned());
        Value::Null
    });
    if answered["lifecycle_state"] == "completed" {
        breaches.push("a command whose end no agent saw is said to have completed".to_owned());
    }
    let again = marking.clone().with("session_id", json!(OTHER));
    served.send(&relay, again.signed()?);
    let refused = relay
        .wait_for("a refusal", |frame| {
            frame["type"] == "ErrorEvent" && frame["code"] == "ENDPOINT_NONCE_REPLAY"
        })
        .await;
    if refused.is_err() {
        breaches.push("the command of the agent that died is taken again".to_owned());
    }
    let finding = Envelope::of(now, "attack_find", json!({"marker": marker}));
    let finding = finding.with("session_id", json!(OTHER));
    served.send(&relay, finding.signed()?);
    let looked = relay.end_of(finding.id()).await?;
    breaches.extend(looked_at(&looked)?);
    served.end().await;
    Ok((breaches, json!({"command": short(&answered), "next": short(&looked)})))
}

/// How long the probe waits for an answer that needs at most one machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn copy(from: &Path, to: &Path) -> Result<(), ProbeError> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    if to.join(JOURNAL).exists() { Ok(()) } else { Err(failed("there was no journal to copy")) }
}

fn forget_journal(directory: &Path) -> Result<(), ProbeError> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(JOURNAL)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_copied_and_forgotten_with_what_belongs_to_it() {
        let (from, to) = (Scratch::new().unwrap(), Scratch::new().unwrap());
        assert!(copy(from.path(), to.path()).is_err());
        for name in [JOURNAL, "journal.db-wal", "nonces.db"] {
            fs::write(from.path().join(name), name).unwrap();
        }
        copy(from.path(), to.path()).unwrap();
        forget_journal(to.path()).unwrap();
        let left: Vec<_> =
            fs::read_dir(to.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["nonces.db"]);
    }

    #[test]
    fn this_process_has_no_machine() {
        assert_eq!(machines_of(std::process::id()), 0);
    }
}
