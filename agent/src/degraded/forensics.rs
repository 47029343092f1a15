//! What is left of a machine, kept for an operator to find out what happened: a directory
//! `forensics/TIME-COMMAND` in the state directory with
//!
//! - `report.json`: what was found (a [`IncidentRecord`]);
//! - `blocks/NUMBER.found` and `.golden`: blocks of the disk, 4096 bytes each;
//! - `pages/ADDRESS.found` and `.golden`: pages of RAM, by guest-physical address;
//! - `console.txt`: the end of what the guest wrote to its console;
//! - `state.txt`: processors with all their registers, and devices.
//!
//! It may hold what a tool had in its memory: mode 0700, like the state directory itself.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use tracing::warn;

use super::record::IncidentRecord;
use sandbox::{ForensicDump, MismatchedBlock};

/// Most bundles that are kept, the latest included.
pub const MAX_BUNDLES: usize = 16;
/// Most bytes of all bundles, in files. The latest one stays whatever its size.
pub const MAX_BYTES: u64 = 64 << 20;
/// Most blocks, and most pages, of one bundle.
const MAX_EXHIBITS: usize = 256;
/// Most bytes of a text.
const MAX_TEXT: usize = 256 << 10;
/// In the state directory.
const DIRECTORY: &str = "forensics";
/// What a bundle is called while it is written.
const UNFINISHED: &str = ".new";

/// Writes a bundle and returns its path from the state directory. Old ones go, but never `named`.
pub fn save(
    state_dir: &Path,
    record: &IncidentRecord,
    remains: &ForensicDump,
    named: Option<&str>,
) -> io::Result<String> {
    let all = state_dir.join(DIRECTORY);
    make_directory(&all)?;
    let aside = all.join(UNFINISHED);
    remove_tree(&aside)?;
    make_directory(&aside)?;
    let name = name(record, |name| all.join(name).symlink_metadata().is_ok());
    let bundle = format!("{DIRECTORY}/{name}");
    let report = IncidentRecord { bundle: Some(bundle.clone()), ..record.clone() };
    write(&aside.join("report.json"), &report.to_bytes())?;
    write(&aside.join("console.txt"), cut(&remains.console))?;
    write(&aside.join("state.txt"), cut(&remains.state))?;
    exhibit(&aside.join("blocks"), &remains.blocks, |number| number.to_string())?;
    exhibit(&aside.join("pages"), &remains.pages, |address| format!("{address:#x}"))?;
    File::open(&aside)?.sync_all()?;
    fs::rename(&aside, all.join(&name))?;
    File::open(&all)?.sync_all()?;
    File::open(state_dir)?.sync_all()?;
    let keep: Vec<&str> =
        named.iter().filter_map(|path| path.rsplit('/').next()).chain([name.as_str()]).collect();
    if let Err(error) = prune(&all, &keep) {
        warn!(%error, "old forensic bundles stay");
    }
    Ok(bundle)
}

/// A name that sorts by time and that nothing else has.
fn name(record: &IncidentRecord, taken: impl Fn(&str) -> bool) -> String {
    let time: String =
        record.since.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    let command = record.command_id.as_deref().unwrap_or("no-command");
    let command: String = command
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .take(64)
        .collect();
    let name = format!("{time}-{command}");
    let free = (1..=MAX_BUNDLES + 1).map(|n| format!("{name}-{n}"));
    std::iter::once(name.clone()).chain(free).find(|name| !taken(name)).unwrap_or(name)
}

fn exhibit(
    directory: &Path,
    exhibits: &[MismatchedBlock],
    name: impl Fn(u64) -> String,
) -> io::Result<()> {
    if exhibits.is_empty() {
        return Ok(());
    }
    make_directory(directory)?;
    // A page may be named twice: for what the machine has there, and for what golden memory has.
    let mut locations = HashSet::new();
    for exhibit in exhibits.iter().take(MAX_EXHIBITS) {
        if !locations.insert(exhibit.location) {
            continue;
        }
        let name = name(exhibit.location);
        write(&directory.join(format!("{name}.found")), &exhibit.found)?;
        if let Some(golden) = &exhibit.golden {
            write(&directory.join(format!("{name}.golden")), golden)?;
        }
    }
    File::open(directory)?.sync_all()
}

/// The end of a text: what came last says most.
fn cut(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    bytes.get(bytes.len().saturating_sub(MAX_TEXT)..).unwrap_or_default()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the oldest until the rest is few and small enough.
fn prune(all: &Path, keep: &[&str]) -> io::Result<()> {
    let mut bundles = Vec::new();
    for entry in fs::read_dir(all)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type()?.is_dir() && name != UNFINISHED {
            bundles.push((name, size(&entry.path())?));
        }
    }
    bundles.sort();
    let mut count = bundles.len();
    let mut bytes: u64 = bundles.iter().map(|(_, size)| size).sum();
    for (name, size) in bundles {
        if count <= MAX_BUNDLES && bytes <= MAX_BYTES {
            break;
        }
        if !keep.contains(&name.as_str()) {
            remove_tree(&all.join(&name))?;
            count -= 1;
            bytes = bytes.saturating_sub(size);
        }
    }
    Ok(())
}

fn size(directory: &Path) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let more = if found.is_dir() { size(&entry.path())? } else { found.len() };
        bytes = bytes.saturating_add(more);
    }
    Ok(bytes)
}
