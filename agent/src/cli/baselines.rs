//! `brainstorm-agent baselines`

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};

use super::{Exit, terminal};
use crate::baselines::{BaselineError, BaselineStore, Installed, Minted, Slot};
use crate::config::Config;
use crate::keyholder::KeyHolder;
use crate::store::StateDir;

/// A line of the table.
type Field = (&'static str, fn(&Minted) -> String);

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: BaselinesAction,
}

#[derive(Debug, Subcommand)]
enum BaselinesAction {
    /// Check what is installed, and show it. Exit code 1 when nothing is, or when it was changed.
    Show {
        /// Print everything as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let BaselinesAction::Show { json } = arguments.command;
    let installed = match load(&config.run.state_dir) {
        Ok(Some(installed)) => installed,
        Ok(None) => return terminal::complain(&BaselineError::Nothing, Exit::Refused),
        Err(error @ (BaselineError::KeyHolder(_) | BaselineError::Sqlite(_))) => {
            return terminal::complain(&error, Exit::ExecutorFailed);
        }
        Err(error) => return terminal::complain(&error, Exit::Refused),
    };
    terminal::show(&installed, json, || table(&installed, terminal::width()))
}

fn load(state_dir: &Path) -> Result<Option<Installed>, BaselineError> {
    let holder = KeyHolder::spawn(&StateDir::identity_in(state_dir), None)?;
    BaselineStore::new(state_dir, &holder).load()
}

fn table(installed: &Installed, width: u16) -> String {
    let slots: Vec<(Slot, &Minted)> = [Slot::A, Slot::B]
        .into_iter()
        .filter_map(|slot| Some((slot, installed.slot(slot)?)))
        .collect();
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .force_no_tty();
    let header = slots.iter().map(|(slot, minted)| {
        let active = if *slot == installed.active { "active" } else { "to go back to" };
        let proved = if minted.proved { "proved" } else { "not proved yet" };
        format!("Slot {}: {active}, {proved}", slot.name())
    });
    table.set_header(std::iter::once("Undamaged".to_owned()).chain(header));
    let fields: [Field; 13] = [
        ("Measured", |m| m.record.measured_at.to_string()),
        ("Disk", |m| m.record.fs_hash.clone()),
        ("Open descriptors", |m| m.record.open_fd_count.to_string()),
        ("Machine", |m| m.record.expected_vmm_api_state.clone()),
        ("Golden state", |m| m.record.golden_hash.clone()),
        ("Kernel", |m| m.record.kernel_sha256.clone()),
        ("Rootfs", |m| m.record.rootfs_sha256.clone()),
        ("Command line", |m| m.record.cmdline.clone()),
        ("Memory", |m| format!("{} MiB", m.record.memory_mib)),
        ("vCPUs", |m| m.record.vcpus.to_string()),
        ("CPUID", |m| m.record.cpu_template.clone()),
        ("Version", |m| m.record.vmm_version.clone()),
        ("Snapshot", |m| m.record.snapshot.display().to_string()),
    ];
    for (name, value) in fields {
        let values = slots.iter().map(|(_, minted)| value(minted));
        table.add_row(std::iter::once(name.to_owned()).chain(values));
    }
    format!("{table}\n")
}
