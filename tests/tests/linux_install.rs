//! Installing on a real guest, and starting from what was installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use brainstorm_agent::baselines::machine::restore;
use dev_relay::{Config, DevRelay, DispatchOptions};
use guest::evidence::format_sha256;
use integration_tests::{LIMIT, ServedAgent, damage, image_dir};
use rustix::process::Signal;
use sandbox::KvmSource;
use sandbox::pool::SandboxSource;
use sandbox::{ImageSource, KvmConfig, KvmSandbox, Sandbox, SandboxSpec};
use serde_json::{Value, json};

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn install(agent: &ServedAgent, more: &[&str]) -> Output {
    let image = image_dir();
    agent.command(&[&["--image-dir", image.to_str().unwrap(), "install"], more].concat())
}

fn show(agent: &ServedAgent) -> Value {
    let output = agent.command(&["baselines", "show", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn echo(relay: &DevRelay, agent: &ServedAgent) -> Value {
    agent.session(relay).await;
    let options = DispatchOptions::default();
    let params = json!({"message": "hello"});
    let mut command = relay.dispatch(agent.id(), "echo", &params, &options).unwrap();
    let outcome =
        command.outcome(LIMIT).await.unwrap_or_else(|error| panic!("{error}\n{}", agent.log()));
    assert!(outcome.is_completed(), "{outcome:?}\n{}", agent.log());
    outcome.frame().clone()
}

/// A command that does not run: the code that the relay is told.
async fn refused_command(relay: &DevRelay, agent: &ServedAgent) -> Option<String> {
    agent.session(relay).await;
    let options = DispatchOptions::default();
    let params = json!({"message": "hello"});
    let mut command = relay.dispatch(agent.id(), "echo", &params, &options).unwrap();
    let outcome = command.outcome(LIMIT).await.unwrap();
    assert!(!outcome.is_completed(), "{outcome:?}");
    outcome.code().map(str::to_owned)
}

/// A start that is refused: what it said.
fn refused(agent: &mut ServedAgent) -> String {
    let before = agent.log().len();
    agent.start();
    let status = agent.ended();
    let said = agent.log()[before..].to_owned();
    assert!(!status.success(), "{said}");
    said
}

/// No command runs until an operator has cleared the latch. `explain` says why; after `clear`, commands
/// run again.
fn assert_latched(agent: &ServedAgent, why: &str) {
    let words = said(&agent.command(&["explain"]));
    assert!(words.contains("DEGRADED since") && words.contains(why), "{words}");
    assert!(words.contains("ENDPOINT_INTEGRITY_MONITOR_TRIPPED"), "{words}");
    let cleared = agent.command(&["clear", "--reason", "it was a test"]);
    assert!(cleared.status.success(), "{}", said(&cleared));
}

fn assert_not_latched(agent: &ServedAgent) {
    let words = said(&agent.command(&["explain"]));
    assert!(words.starts_with("not degraded"), "{words}");
}

fn stop(agent: &mut ServedAgent) {
    agent.signal(Signal::TERM);
    assert!(agent.ended().success(), "{}", agent.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_installed_is_what_runs_and_nothing_else() {
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let mut agent = ServedAgent::with_machines(&relay);
    let json_file = agent.state().with_file_name("install.json");
    let output = install(&agent, &["--output", json_file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(fs::read(&json_file).unwrap(), output.stdout);
    let snapshot = PathBuf::from(report["snapshotPath"].as_str().unwrap());
    assert!(snapshot.exists());
    assert!(report["rootfs"]["path"].as_str().unwrap().ends_with("rootfs.ext4"));
    assert!(report["rootfs"]["overlayPath"].is_null());
    let baselines = &report["baselines"];
    assert!(baselines["fs_hash"].as_str().unwrap().starts_with("sha256:"));
    assert!(baselines["open_fd_count"].as_i64().unwrap() > 0);
    assert_eq!(baselines["expected_vmm_api_state"], "running");
    let installed = show(&agent);
    assert_eq!(installed["active"], "A");
    assert_eq!(installed["a"]["proved"], false);

    // It runs from the snapshot and says so in every result.
    agent.start();
    let frame = echo(&relay, &agent).await;
    let golden = installed["a"]["record"]["golden_hash"].clone();
    assert_eq!(frame["sandbox_reset_state"]["golden_hash"], golden);
    let details = &frame["sandbox_reset_state"]["verification_details"];
    assert_eq!(details["open_fd_count_baseline"], baselines["open_fd_count"]);
    // The directory is in use.
    assert_eq!(install(&agent, &[]).status.code(), Some(3));
    stop(&mut agent);
    assert_eq!(show(&agent)["a"]["proved"], true);

    // A byte of the snapshot.
    let good = fs::read(&snapshot).unwrap();
    damage(&snapshot);
    let words = refused(&mut agent);
    assert!(words.contains("install` again"), "{words}");
    fs::write(&snapshot, &good).unwrap();
    // Also when nothing is wrong any more: an operator has to look.
    agent.start();
    let code = refused_command(&relay, &agent).await;
    assert_eq!(code.as_deref(), Some("ENDPOINT_INTEGRITY_MONITOR_TRIPPED"));
    stop(&mut agent);
    assert_latched(&agent, "is damaged");

    // A byte of the baselines.
    let store = agent.state().join("baselines.db");
    let kept = fs::read(&store).unwrap();
    damage(&store);
    let words = refused(&mut agent);
    assert!(words.contains("baselines.db") && words.contains("not as this endpoint"), "{words}");
    fs::write(&store, kept).unwrap();
    assert_latched(&agent, "baselines.db");

    // Another snapshot of the same image, whole in itself.
    let image = image_dir();
    let other = agent.state().with_file_name("other.snapshot");
    let made = agent.command(&[
        "--image-dir",
        image.to_str().unwrap(),
        "snapshot",
        "create",
        other.to_str().unwrap(),
    ]);
    assert!(made.status.success(), "{}", said(&made));
    fs::copy(&other, &snapshot).unwrap();
    let words = refused(&mut agent);
    assert!(words.contains("golden_hash was") && words.contains("tampering"), "{words}");
    fs::write(&snapshot, &good).unwrap();
    assert_latched(&agent, "golden_hash was");

    // Other settings than those of the installation.
    let config = agent.state().with_file_name("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("memory_mib = 160\n{text}")).unwrap();
    let words = refused(&mut agent);
    assert!(words.contains("memory_mib was 128 and is 160"), "{words}");
    fs::write(&config, text).unwrap();
    assert_not_latched(&agent);

    // The next one goes into the other slot; the one before can be had back.
    let output = install(&agent, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let installed = show(&agent);
    assert_eq!(installed["active"], "B");
    assert_eq!(installed["a"]["record"]["golden_hash"], golden);
    // What was installed last is lost before it has proved itself.
    let newest = PathBuf::from(installed["b"]["record"]["snapshot"].as_str().unwrap());
    damage(&newest);
    agent.start();
    let frame = echo(&relay, &agent).await;
    assert_eq!(frame["sandbox_reset_state"]["golden_hash"], golden);
    stop(&mut agent);
    assert_eq!(show(&agent)["active"], "A");
    assert_not_latched(&agent);
    let back = install(&agent, &["--rollback"]);
    assert_eq!(back.status.code(), Some(0), "{}", said(&back));
    assert_eq!(show(&agent)["active"], "B");
    let verified = agent.command(&["audit", "verify"]);
    assert!(verified.status.success(), "{}", said(&verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_that_fails_has_its_exit_code() {
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let agent = ServedAgent::with_machines(&relay);
    assert_eq!(install(&agent, &["--nonsense"]).status.code(), Some(3));
    assert_eq!(install(&agent, &["--rollback"]).status.code(), Some(3));
    assert_eq!(agent.command(&["--image-dir", "/nonexistent", "install"]).status.code(), Some(3));
    // A root file system without a guest program boots to nothing.
    let empty = agent.state().with_file_name("empty.ext4");
    let mut bytes = fs::read(image_dir().join("rootfs.ext4")).unwrap();
    // Everything behind the superblock and the group descriptors.
    bytes[1 << 16..].fill(0);
    fs::write(&empty, bytes).unwrap();
    let output = install(&agent, &["--rootfs", empty.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    // A file where the directory of snapshots should be.
    let snapshots = agent.state().join("snapshots");
    fs::write(&snapshots, "").unwrap();
    let output = install(&agent, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    fs::remove_file(snapshots).unwrap();
    assert_eq!(agent.command(&["baselines", "show"]).status.code(), Some(1));
}

#[test]
fn machines_are_recaptured_from_what_was_installed_and_not_from_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("golden.snapshot");
    let spec = SandboxSpec::new(ImageSource::directory(image_dir()));
    let config = KvmConfig::default();
    let booted = KvmSandbox::new(spec.clone(), config.clone());
    booted.boot().unwrap();
    booted.save_snapshot(&snapshot).unwrap();
    booted.shutdown();
    let restored = || restore(&spec, &config, &snapshot, None).unwrap();
    let (sandbox, record) = restored();
    let golden = |source: &KvmSource| {
        source.recapture().unwrap();
        let machine = source.machine().unwrap();
        format_sha256(&machine.golden().unwrap().hash().unwrap())
    };
    // Every boot is another golden state.
    let source = KvmSource::new(sandbox).unwrap();
    assert_ne!(golden(&source), record.golden_hash);
    let origin = {
        let (spec, config, snapshot) = (spec.clone(), config.clone(), snapshot.clone());
        move || Ok(restore(&spec, &config, &snapshot, None).unwrap().0)
    };
    let source = source.recaptured_from(Box::new(origin));
    assert_eq!(golden(&source), record.golden_hash);
}
