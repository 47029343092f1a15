//! `brainstorm-agent install`

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::{Exit, terminal};
use crate::baselines::machine::restore;
use crate::baselines::store::remove_unused;
use crate::baselines::{BaselineRecord, BaselineStore, Slot};
use crate::config::Config;
use crate::keyholder::KeyHolder;
use crate::store::StateDir;
use crate::store::note::note_in_audit;
use protocol::shape::hex_of_bytes;
use sandbox::{KvmImage, KvmSandbox, Resets, Sandbox};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Write the JSON to this file as well.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Install nothing: make what was installed before the active one again.
    #[arg(long, conflicts_with = "output")]
    rollback: bool,
}

/// Exit codes of `install`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Boot = 1,
    Snapshot = 2,
    /// Usage, settings, or something that has to be there first.
    Environment = 3,
    Baselines = 4,
}

/// Exit code of wrong usage or settings.
pub const USAGE: u8 = Stage::Environment as u8;

struct Failed(Stage, String);

impl Stage {
    fn failed(self, error: &dyn std::fmt::Display) -> Failed {
        Failed(self, error.to_string())
    }
}

/// What is printed.
#[derive(Serialize)]
struct InstallReport<'a> {
    #[serde(rename = "snapshotPath")]
    snapshot_path: &'a Path,
    rootfs: Rootfs,
    baselines: Baselines<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rootfs {
    path: PathBuf,
    /// There is none: what the guest writes stays in memory.
    overlay_path: Option<PathBuf>,
}

#[derive(Serialize)]
struct Baselines<'a> {
    fs_hash: &'a str,
    open_fd_count: i64,
    expected_vmm_api_state: &'a str,
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let done = if arguments.rollback { roll_back(config) } else { install(arguments, config) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(stage, message)) => {
            terminal::complain(&message, Exit::ExecutorFailed);
            ExitCode::from(stage as u8)
        }
    }
}

fn install(arguments: &Arguments, config: &Config) -> Result<(), Failed> {
    let environment = |error: &dyn std::fmt::Display| Stage::Environment.failed(error);
    // Before any machine exists: that process is to inherit none.
    let state_dir = StateDir::open(&config.run.state_dir).map_err(|e| environment(&e))?;
    let holder = KeyHolder::spawn(&state_dir.identity(), None).map_err(|e| environment(&e))?;
    let store = BaselineStore::new(state_dir.path(), &holder);
    store.load().map_err(|e| environment(&e))?;
    let image = KvmImage::open(&config.sandbox.image).map_err(|e| environment(&e))?;
    say(&format!("image: {}", image.summary()));
    drop(image);

    let dir = state_dir.path().join("snapshots");
    let snapshot = capture(config, &dir)?;
    say("restoring it, and measuring the baselines on the restored machine");
    let restored = restore(&config.sandbox, &config.kvm, &snapshot, None);
    let record = match restored {
        Ok((sandbox, record)) => {
            sandbox.shutdown();
            record
        }
        Err(error) => {
            discard(&store, &dir);
            return Err(Stage::Baselines.failed(&error));
        }
    };
    let minted = store.mint(record.clone());
    // Also what an earlier attempt left.
    discard(&store, &dir);
    let slot = minted.map_err(|e| Stage::Baselines.failed(&e))?;
    say(&format!(
        "installed in slot {}; what was installed before is kept in the other slot",
        slot.name()
    ));
    note(&state_dir, "BaselinesInstalled", slot, &record);
    print(&record, config, arguments.output.as_deref()).map_err(|e| environment(&e))
}

/// Boots a machine, warms it up, and writes its golden state to a file named after its hash.
fn capture(config: &Config, dir: &Path) -> Result<PathBuf, Failed> {
    let snapshot_failed = |error: &dyn std::fmt::Display| Stage::Snapshot.failed(error);
    say("booting a machine and warming it up");
    let sandbox =
        KvmSandbox::new(config.sandbox.clone().with_resets(Resets::Unverified), config.kvm.clone());
    let boot = sandbox.boot().map_err(|e| Stage::Boot.failed(&e))?;
    say(&format!("ready after {} ms; writing its golden state", boot.total.as_millis()));
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(snapshot_failed(&format!("cannot make {}: {error}", dir.display())));
        }
        _ => {}
    }
    let golden = sandbox.golden().ok_or_else(|| snapshot_failed(&"nothing was captured"))?;
    let hash = golden.hash().map_err(|e| snapshot_failed(&e))?;
    let snapshot = dir.join(format!("{}.snapshot", hex_of_bytes(&hash)));
    sandbox.save_snapshot(&snapshot).map_err(|e| snapshot_failed(&e))?;
    sandbox.shutdown();
    Ok(snapshot)
}

/// Removes snapshots that no slot names, if it can be told which those are.
fn discard(store: &BaselineStore<'_>, dir: &Path) {
    let removed = match store.load() {
        Ok(Some(installed)) => remove_unused(dir, &installed),
        _ => return,
    };
    if let Err(error) = removed {
        say(&format!("snapshots that no slot names are left in {}: {error}", dir.display()));
    }
}

fn roll_back(config: &Config) -> Result<(), Failed> {
    let environment = |error: &dyn std::fmt::Display| Stage::Environment.failed(error);
    let state_dir = StateDir::open(&config.run.state_dir).map_err(|e| environment(&e))?;
    let holder = KeyHolder::spawn(&state_dir.identity(), None).map_err(|e| environment(&e))?;
    let store = BaselineStore::new(state_dir.path(), &holder);
    let slot = store.rollback().map_err(|e| environment(&e))?;
    let installed = store.load().map_err(|e| environment(&e))?;
    if let Some(active) = installed.as_ref().and_then(|installed| installed.active()) {
        note(&state_dir, "BaselinesRolledBack", slot, &active.record);
        print(&active.record, config, None).map_err(|e| environment(&e))?;
    }
    say(&format!("slot {} is the active one again", slot.name()));
    Ok(())
}

fn note(state_dir: &StateDir, kind: &str, slot: Slot, record: &BaselineRecord) {
    let payload = json!({"slot": slot.name(), "record": record});
    if let Err(error) = note_in_audit(state_dir, kind, &payload) {
        say(&format!("the audit log does not say so: {error}"));
    }
}

fn print(record: &BaselineRecord, config: &Config, output: Option<&Path>) -> io::Result<()> {
    let image = &config.sandbox.image;
    let path = image.rootfs.clone().unwrap_or_else(|| image.dir.join("rootfs.ext4"));
    let report = InstallReport {
        snapshot_path: &record.snapshot,
        rootfs: Rootfs { path, overlay_path: None },
        baselines: Baselines {
            fs_hash: &record.fs_hash,
            open_fd_count: record.open_fd_count,
            expected_vmm_api_state: &record.expected_vmm_api_state,
        },
    };
    if let Some(output) = output {
        let mut text = serde_json::to_vec_pretty(&report)?;
        text.push(b'\n');
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o644);
        options.open(output)?.write_all(&text)?;
    }
    terminal::print_json(&report)
}

fn say(text: &str) {
    terminal::say(&text);
}
