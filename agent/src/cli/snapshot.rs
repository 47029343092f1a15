//! `brainstorm-agent snapshot`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use vmm::snapshot_file::{Change, Diff, Info, Range, SnapshotError};

use super::{Exit, terminal};
use crate::config::Config;
use sandbox::{KvmSandbox, Sandbox};

/// Lines of one kind of difference that a person gets to see; JSON has all of them.
const MAX_LINES: usize = 40;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: SnapshotAction,
}

#[derive(Debug, Subcommand)]
enum SnapshotAction {
    /// Boot the image, warm it up, capture its golden state and write it to a file.
    Create {
        /// The snapshot; replaced when it exists.
        file: PathBuf,
    },
    /// Check a snapshot and say what it was made of and whether this host can use it.
    Info {
        /// The snapshot.
        file: PathBuf,
        /// Print everything as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compare two snapshots: memory, registers, devices, disk.
    Diff {
        /// The first snapshot.
        left: PathBuf,
        /// The second snapshot.
        right: PathBuf,
        /// Print every difference as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    match &arguments.what {
        SnapshotAction::Create { file } => create(file, config),
        SnapshotAction::Info { file, json } => show(Info::read(file), *json, info_table),
        SnapshotAction::Diff { left, right, json } => {
            show(Diff::of_files(left, right), *json, diff_table)
        }
    }
}

fn create(file: &Path, config: &Config) -> ExitCode {
    let sandbox = KvmSandbox::new(config.sandbox.clone(), config.kvm.clone());
    let spinner = terminal::spinner("booting the microVM and capturing it");
    let booted = sandbox.boot();
    spinner.finish_and_clear();
    if let Err(error) = booted {
        return terminal::complain(&error, Exit::BootFailed);
    }
    match sandbox.save_snapshot(file) {
        Ok(()) => show(Info::read(file), false, info_table),
        Err(error) => terminal::complain(&error, Exit::ExecutorFailed),
    }
}

fn show<T: Serialize>(
    found: Result<T, SnapshotError>,
    json: bool,
    table: impl FnOnce(&T, u16) -> String,
) -> ExitCode {
    let found = match found {
        Ok(found) => found,
        Err(error) => return terminal::complain(&error, Exit::ExecutorFailed),
    };
    terminal::show(&found, json, || table(&found, terminal::width()))
}

fn new_table(width: u16) -> Table {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .force_no_tty();
    table
}

fn info_table(info: &Info, width: u16) -> String {
    let none = || "none".to_owned();
    let processor = &info.processor;
    let data = |pages: u64| format!("{} KiB not zero", pages * 4);
    let mut table = new_table(width);
    table.set_header(["Snapshot", "undamaged"]);
    let rows = [
        ("Golden hash", info.golden_hash.clone()),
        ("Made by version", format!("{}, format {}", info.vmm_version, info.format_version)),
        ("Made on", processor.to_string()),
        ("CPUID", info.cpuid_sha256.clone()),
        ("Kernel", info.kernel_sha256.clone()),
        ("Rootfs", info.rootfs_sha256.clone().unwrap_or_else(none)),
        ("Disk as captured", info.disk_sha256.clone().unwrap_or_else(none)),
        ("Command line", info.cmdline.clone()),
        ("vCPUs", info.vcpus.to_string()),
        ("Memory", format!("{} MiB, {}", info.memory_mib, data(info.memory_pages))),
        ("Disk", format!("{} MiB, {}", info.disk_bytes >> 20, data(info.disk_blocks))),
        ("Guest CID", info.guest_cid.to_string()),
        ("File", format!("{} bytes", info.file_bytes)),
    ];
    for (name, value) in rows {
        table.add_row([name, &value]);
    }
    for section in &info.sections {
        table.add_row([format!("  {}", section.name), format!("{} bytes", section.bytes)]);
    }
    let here = info.unfit_here.as_deref().unwrap_or("can be used");
    table.add_row(["On this host", here]);
    format!("{table}\n")
}

fn diff_table(diff: &Diff, width: u16) -> String {
    if diff.is_empty() {
        return "The snapshots are equal.\n".to_owned();
    }
    let mut text = String::new();
    let vcpus: Vec<Change> = diff
        .vcpus
        .iter()
        .map(|found| {
            let name = format!("vCPU {}: {}", found.vcpu, found.change.name);
            Change { name, ..found.change.clone() }
        })
        .collect();
    let kinds = [
        ("Made with", &diff.made_with),
        ("Registers", &vcpus),
        ("Machine", &diff.machine),
        ("Devices", &diff.devices),
    ];
    for (kind, changes) in kinds {
        let rows = changes
            .iter()
            .map(|change| [change.name.clone(), change.left.clone(), change.right.clone()]);
        section(&mut text, [kind, "First", "Second"], rows, width);
    }
    for (kind, ranges) in [("Memory from", &diff.memory), ("Disk from", &diff.disk)] {
        let total: u64 = ranges.iter().map(|range| range.pages).sum();
        let rows = ranges.iter().map(|Range { start, pages }| {
            let end = start + pages * vmm::PAGE_BYTES as u64;
            [format!("{start:#x}"), format!("{end:#x}"), pages.to_string()]
        });
        section(&mut text, [kind, "to", &format!("Pages ({total})")], rows, width);
    }
    text
}

/// Adds a table, unless it would be empty.
fn section(
    text: &mut String,
    header: [&str; 3],
    rows: impl ExactSizeIterator<Item = [String; 3]>,
    width: u16,
) {
    let count = rows.len();
    if count == 0 {
        return;
    }
    let mut table = new_table(width);
    table.set_header(header);
    for row in rows.take(MAX_LINES) {
        table.add_row(row);
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{table}");
    if count > MAX_LINES {
        let _ = writeln!(text, "and {} more; --json shows all", count - MAX_LINES);
    }
}

#[cfg(test)]
mod tests {
    use vmm::snapshot_file::VcpuChange;

    use super::*;

    #[test]
    fn differences_are_shown_with_both_values_and_cut_where_no_reader_goes_on() {
        let change = |name: &str| Change {
            name: name.to_owned(),
            left: "0x1".to_owned(),
            right: "0x2".to_owned(),
        };
        let memory: Vec<_> = (0..100).map(|n| Range { start: n * 0x2000, pages: 1 }).collect();
        let mut diff = Diff::default();
        diff.memory = memory;
        diff.vcpus = vec![VcpuChange { vcpu: 3, change: change("rip") }];
        diff.machine = vec![change("kvmclock")];
        let text = diff_table(&diff, 100);
        for wanted in ["vCPU 3: rip", "0x2", "kvmclock", "Pages (100)", "and 60 more"] {
            assert!(text.contains(wanted), "{wanted} is missing in {text}");
        }
        assert!(!text.contains("Devices"), "{text}");
        assert_eq!(diff_table(&Diff::default(), 100), "The snapshots are equal.\n");
    }
}
