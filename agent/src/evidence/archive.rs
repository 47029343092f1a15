//! Evidence on this machine: the relay gets heads of chains and tails of outputs, no chunks.
//!
//! One JSON file a command, `COMMAND_ID.json`, see [`EvidenceRecord`]; one JSON file a guest image,
//! `image-HEX.json`, its manifest. All of mode 0600. What is too old goes, and the oldest go when all
//! together are too large; the evidence of a command whose result is still owed to the relay stays,
//! however old and large it is.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use guest::manifest::ImageManifest;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::warn;

use super::EvidenceRecord;
use protocol::canonical_bytes;
use protocol::shape::is_uuid;
use protocol::signing::sha256_text;

/// Longest record that is read, in bytes: more than what two of the longest streams make.
const LONGEST: u64 = 64 << 20;

const SUFFIX: &str = ".json";
const IMAGE_PREFIX: &str = "image-";

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Most bytes of all files.
    pub bytes: u64,
    /// Greatest age.
    pub age: Duration,
}

impl Default for Retention {
    /// 256 MiB, 30 days.
    fn default() -> Self {
        Self { bytes: 256 << 20, age: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// A directory of evidence.
pub struct EvidenceStore {
    dir: Arc<Path>,
    retention: Retention,
    /// Bytes of all files, about: what others remove is noticed by the next sweep.
    kept: Arc<AtomicU64>,
    image: Option<KeptImage>,
}

/// The manifest of the image commands run on.
struct KeptImage {
    hash: String,
    text: Arc<[u8]>,
}

impl EvidenceStore {
    /// A directory that exists, for commands on an image.
    pub fn new(
        dir: impl Into<PathBuf>,
        retention: Retention,
        image: Option<&ImageManifest>,
    ) -> Self {
        let dir: PathBuf = dir.into();
        let image = image.and_then(|manifest| {
            let text = canonical_bytes(manifest).ok()?;
            Some(KeptImage { hash: sha256_text(&text), text: text.into() })
        });
        // Until the first sweep has counted, it may be full.
        let kept = Arc::new(AtomicU64::new(u64::MAX));
        Self { dir: dir.into(), retention, kept, image }
    }

    /// Hash of the manifest of the image commands run on.
    pub fn image(&self) -> Option<String> {
        self.image.as_ref().map(|image| image.hash.clone())
    }

    /// Writes down what a command gave. A full disk costs the evidence, not the result.
    pub async fn keep(&self, record: EvidenceRecord) {
        let (dir, kept) = (Arc::clone(&self.dir), Arc::clone(&self.kept));
        let id = record.command_id.clone();
        let written = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec(&record)?;
            // The id is a UUID: it was checked with the envelope.
            write_once(&dir.join(format!("{}{SUFFIX}", record.command_id)), &text)?;
            // Saturating, so that it stays "unknown".
            let add = |kept: u64| Some(kept.saturating_add(text.len() as u64));
            let _ = kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
            io::Result::Ok(())
        });
        if let Ok(Err(error)) = written.await {
            warn!(command = id, %error, "the evidence could not be kept");
        }
    }

    /// What is kept of a command; nothing when there is nothing that can be read.
    pub async fn find(&self, command_id: &str) -> Option<EvidenceRecord> {
        let path = record_path(&self.dir, command_id)?;
        let id = command_id.to_owned();
        let read = move || {
            let mut text = Vec::new();
            match File::open(&path) {
                Ok(file) => file.take(LONGEST).read_to_end(&mut text)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let record: EvidenceRecord = serde_json::from_slice(&text)?;
            Ok(Some(record).filter(|record| record.command_id == id))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                warn!(command = command_id, %error, "the evidence cannot be read");
                None
            }
            Err(_) => None,
        }
    }

    /// Whether there is more than there should be.
    pub fn is_full(&self) -> bool {
        self.kept.load(Ordering::Relaxed) > self.retention.bytes
    }

    /// Removes what is too old or too much, but nothing of the commands in `owed`.
    pub async fn sweep(&self, owed: HashSet<String>) {
        let (dir, kept, retention) =
            (Arc::clone(&self.dir), Arc::clone(&self.kept), self.retention);
        let image = self
            .image
            .as_ref()
            .map(|image| (image_path(&dir, &image.hash), Arc::clone(&image.text)));
        let swept = tokio::task::spawn_blocking(move || {
            if let Some((path, text)) = image {
                in_use(&path, &text)?;
            }
            let left = sweep(&dir, retention, &owed)?;
            kept.store(left, Ordering::Relaxed);
            io::Result::Ok(())
        });
        if let Ok(Err(error)) = swept.await {
            warn!(%error, "old evidence could not be removed");
        }
    }
}

/// The file of a command's record.
pub fn record_path(dir: &Path, command_id: &str) -> Option<PathBuf> {
    is_uuid(command_id).then(|| dir.join(format!("{command_id}{SUFFIX}")))
}

/// The file of a manifest, by its hash.
pub fn image_path(dir: &Path, hash: &str) -> PathBuf {
    let digits = hash.strip_prefix("sha256:").unwrap_or(hash);
    dir.join(format!("{IMAGE_PREFIX}{digits}{SUFFIX}"))
}

/// The commands there is evidence of, oldest first, with the size of their files.
pub fn list(dir: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = files(dir)?;
    files.sort_by_key(|file| file.modified);
    Ok(files.into_iter().filter_map(|file| Some((file.command_id?, file.bytes))).collect())
}

struct Kept {
    modified: SystemTime,
    bytes: u64,
    path: PathBuf,
    /// None of a manifest.
    command_id: Option<String>,
}

fn files(dir: &Path) -> io::Result<Vec<Kept>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
        let command_id = is_uuid(stem).then(|| stem.to_owned());
        let data = match entry.metadata() {
            Ok(data) => data,
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if data.is_file() && (command_id.is_some() || stem.starts_with(IMAGE_PREFIX)) {
            let (modified, bytes, path) = (data.modified()?, data.len(), entry.path());
            files.push(Kept { modified, bytes, path, command_id });
        }
    }
    Ok(files)
}

/// Writes a file that appears whole or not at all, and never in place of another.
fn write_once(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    // Whatever a crash left, and its mode.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(text)?;
    let moved = renameat_with(CWD, &aside, CWD, path, RenameFlags::NOREPLACE);
    if moved.is_err() {
        fs::remove_file(&aside)?;
    }
    Ok(moved?)
}

/// Sees that a manifest is there, with the time it was last in use.
fn in_use(path: &Path, text: &[u8]) -> io::Result<()> {
    match write_once(path, text) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::options().write(true).open(path)?.set_modified(SystemTime::now())
        }
        written => written,
    }
}

/// Gives the bytes that are left.
fn sweep(dir: &Path, retention: Retention, owed: &HashSet<String>) -> io::Result<u64> {
    let (mut records, images): (Vec<_>, Vec<_>) =
        files(dir)?.into_iter().partition(|file| file.command_id.is_some());
    records.sort_by_key(|file| file.modified);
    let mut total: u64 = records.iter().map(|file| file.bytes).sum();
    let now = SystemTime::now();
    let age = |file: &Kept| now.duration_since(file.modified).unwrap_or_default();
    for file in records {
        let goes = total > retention.bytes || age(&file) > retention.age;
        let is_owed = file.command_id.as_ref().is_some_and(|id| owed.contains(id));
        if goes && !is_owed {
            fs::remove_file(&file.path)?;
            total = total.saturating_sub(file.bytes);
        }
    }
    // A manifest is dated at every sweep while it is in use, so no record of it is left by then.
    let oldest = retention.age.saturating_mul(2).saturating_add(Duration::from_secs(24 * 3600));
    for file in images.iter().filter(|file| age(file) > oldest) {
        fs::remove_file(&file.path)?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests;
