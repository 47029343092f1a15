//! The file with the baselines, `baselines.db` in the state directory, mode 0600.
//!
//! An SQLite database with two tables: `slot` with at most two rows, `A` and `B`, each a [`BaselineRecord`]
//! as JSON and whether it has proved itself, and `state` with one row: the active slot and a MAC. The
//! MAC covers every byte of the file, read with the MAC's own 32 bytes as zeros:
//! HMAC-SHA-256 over `brainstorm-baseline-store-v1` 00 ‖ SHA-256(file), with a key that only this
//! endpoint's identity gives; the key holder computes it, so that no other process ever has the key.
//! The file is always written as a whole, aside, and renamed. What is checked is what is used: the
//! file is read once, and SQLite is given those bytes.
//!
//! What this does not find is an old file that was kept and restored, with the snapshot it names.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::record::{BaselineRecord, Incomplete};
use crate::keyholder::{KeyHolder, KeyHolderError};
use crate::store::StoreError;
use crate::store::private_file;

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Says in the file's header what it is (SQLite file format 1.3.17).
const APPLICATION_ID: i32 = 0x4253_4d62;
const VERSION: i32 = 1;
const MAC_BYTES: usize = 32;

const SCHEMA: &str = "
    CREATE TABLE slot (
        name TEXT PRIMARY KEY NOT NULL CHECK (name IN ('A', 'B')),
        record TEXT NOT NULL,
        proved INTEGER NOT NULL CHECK (proved IN (0, 1))
    ) STRICT;
    CREATE TABLE state (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        active TEXT NOT NULL,
        mac BLOB NOT NULL CHECK (length(mac) = 32)
    ) STRICT;
";

/// Makes MACs that only the holder of the endpoint's key can make.
pub trait Authenticator {
    /// The MAC of a file with this SHA-256, always the same.
    fn mac(&self, digest: [u8; 32]) -> Result<[u8; 32], KeyHolderError>;
}

impl Authenticator for KeyHolder {
    fn mac(&self, digest: [u8; 32]) -> Result<[u8; 32], KeyHolderError> {
        self.baseline_mac(digest)
    }
}

/// One of the two places for a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Minted {
    /// What was measured.
    pub record: BaselineRecord,
    /// Whether a machine started from it has passed a verified reset in service.
    pub proved: bool,
}

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// The slot that counts.
    pub active: Slot,
    /// The first slot.
    pub a: Option<Minted>,
    /// The second slot.
    pub b: Option<Minted>,
}

/// Why there are no baselines to go by.
#[derive(Debug, Error)]
pub enum BaselineError {
    /// The file is not as this endpoint wrote it.
    #[error(
        "{} is not as this endpoint wrote it: {detail}. The file was changed, or the endpoint was \
         enrolled anew with another key. Look for tampering; if you know why, move the file away, \
         take its line out of `stores` beside it, and run `brainstorm-agent install` again",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A record that could not tell a good machine from a bad one.
    #[error("these baselines are worth nothing, so they are not used: {0}")]
    Worthless(#[from] Incomplete),
    /// There is nothing to go back to.
    #[error("there is no other slot to go back to: run `brainstorm-agent install` instead")]
    NoOther,
    /// Nothing is installed.
    #[error("nothing is installed: run `brainstorm-agent install` first")]
    Nothing,
    /// The file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key holder gave no MAC.
    #[error(transparent)]
    KeyHolder(#[from] KeyHolderError),
    /// SQLite failed.
    #[error("the baselines cannot be put into a file: {0}")]
    Sqlite(String),
}

impl Installed {
    /// What a slot holds.
    pub fn slot(&self, slot: Slot) -> Option<&Minted> {
        match slot {
            Slot::A => self.a.as_ref(),
            Slot::B => self.b.as_ref(),
        }
    }

    /// What counts.
    pub fn active(&self) -> Option<&Minted> {
        self.slot(self.active)
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut Option<Minted> {
        match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }
}

/// The file of baselines, opened with what makes its MAC.
pub struct BaselineStore<'a> {
    path: PathBuf,
    keys: &'a dyn Authenticator,
}

impl<'a> BaselineStore<'a> {
    /// That of a state directory.
    pub fn new(state_dir: &Path, keys: &'a dyn Authenticator) -> Self {
        Self { path: state_dir.join("baselines.db"), keys }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is installed; nothing where nothing ever was.
    pub fn load(&self) -> Result<Option<Installed>, BaselineError> {
        let Some(bytes) = private_file::read(&self.path, MAX_BYTES)? else { return Ok(None) };
        let (installed, mac) = parse(&bytes).map_err(|detail| self.changed(&detail))?;
        let (_, digest) = place_of(&bytes, &mac)
            .ok_or_else(|| self.changed("its MAC cannot be told from its content"))?;
        if self.keys.mac(digest)? != mac {
            return Err(self.changed("its MAC is not that of its content"));
        }
        for minted in [&installed.a, &installed.b].into_iter().flatten() {
            minted.record.validate()?;
        }
        if installed.active().is_none() {
            return Err(self.changed("its active slot is empty"));
        }
        Ok(Some(installed))
    }

    /// Puts a record into a slot and makes that the active one. The other keeps what it has; of two
    /// the one that proved itself last is kept.
    pub fn mint(&self, record: BaselineRecord) -> Result<Slot, BaselineError> {
        record.validate()?;
        let minted = Some(Minted { record, proved: false });
        let Some(mut installed) = self.load()? else {
            self.write(&Installed { active: Slot::A, a: minted, b: None })?;
            return Ok(Slot::A);
        };
        let active = installed.active;
        let other = active.other();
        let proved = |slot: Slot| installed.slot(slot).is_some_and(|minted: &Minted| minted.proved);
        let slot = if !proved(active) && proved(other) { active } else { other };
        *installed.slot_mut(slot) = minted;
        installed.active = slot;
        self.write(&installed)?;
        Ok(slot)
    }

    /// Notes that the active record has proved itself.
    pub fn confirm(&self) -> Result<(), BaselineError> {
        let mut installed = self.load()?.ok_or(BaselineError::Nothing)?;
        let active = installed.active;
        match installed.slot_mut(active) {
            Some(minted) if !minted.proved => minted.proved = true,
            _ => return Ok(()),
        }
        self.write(&installed)
    }

    /// Makes the other slot the active one.
    pub fn rollback(&self) -> Result<Slot, BaselineError> {
        let mut installed = self.load()?.ok_or(BaselineError::Nothing)?;
        let other = installed.active.other();
        if installed.slot(other).is_none() {
            return Err(BaselineError::NoOther);
        }
        installed.active = other;
        self.write(&installed)?;
        Ok(other)
    }

    fn write(&self, installed: &Installed) -> Result<(), BaselineError> {
        let sqlite = |error: rusqlite::Error| BaselineError::Sqlite(error.to_string());
        // Random, so that its place in the file can be found.
        let mark = random().map_err(|error| StoreError::of_io(&self.path, &error))?;
        let mut bytes = build(installed, &mark).map_err(sqlite)?;
        let (at, digest) = place_of(&bytes, &mark)
            .ok_or_else(|| BaselineError::Sqlite("the MAC has no place of its own".to_owned()))?;
        let mac = self.keys.mac(digest)?;
        if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *place = mac;
        }
        Ok(private_file::write(&self.path, &bytes)?)
    }

    fn changed(&self, detail: &str) -> BaselineError {
        BaselineError::Changed { path: self.path.clone(), detail: detail.to_owned() }
    }
}

/// Where the MAC is in the file, and SHA-256 of the file with zeros in its place; none unless it is
/// there exactly once.
fn place_of(bytes: &[u8], mac: &[u8; MAC_BYTES]) -> Option<(usize, [u8; 32])> {
    let mut places = bytes.windows(MAC_BYTES).enumerate().filter(|(_, window)| window == mac);
    let (at, _) = places.next()?;
    if places.next().is_some() {
        return None;
    }
    let (before, rest) = bytes.split_at_checked(at)?;
    let after = rest.get(MAC_BYTES..)?;
    let digest = Sha256::new()
        .chain_update(before)
        .chain_update([0; MAC_BYTES])
        .chain_update(after)
        .finalize();
    Some((at, digest.into()))
}

fn build(installed: &Installed, mac: &[u8; MAC_BYTES]) -> rusqlite::Result<Vec<u8>> {
    let mut database = Connection::open_in_memory()?;
    let transaction = database.transaction()?;
    transaction.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; {SCHEMA}"
    ))?;
    for slot in [Slot::A, Slot::B] {
        if let Some(Minted { record, proved }) = installed.slot(slot) {
            let text = serde_json::to_string(record)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            transaction
                .execute("INSERT INTO slot VALUES (?1, ?2, ?3)", (slot.name(), text, proved))?;
        }
    }
    transaction.execute("INSERT INTO state VALUES (1, ?1, ?2)", (installed.active.name(), mac))?;
    transaction.commit()?;
    Ok(database.serialize("main")?.to_vec())
}

fn parse(bytes: &[u8]) -> Result<(Installed, [u8; MAC_BYTES]), String> {
    let sqlite = |error: rusqlite::Error| format!("SQLite says {error}");
    let mut database = Connection::open_in_memory().map_err(sqlite)?;
    database.deserialize_read_exact("main", bytes, bytes.len(), true).map_err(sqlite)?;
    private_file::harden(&database).map_err(sqlite)?;
    let number = |pragma| {
        database.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(sqlite)
    };
    if (number("application_id")?, number("user_version")?) != (APPLICATION_ID, VERSION) {
        return Err("it is something else, or of another version".to_owned());
    }
    let minted = |slot: Slot| -> Result<Option<Minted>, String> {
        let found: Option<(String, bool)> = database
            .query_row("SELECT record, proved FROM slot WHERE name = ?1", [slot.name()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .map_err(sqlite)?;
        let Some((text, proved)) = found else { return Ok(None) };
        let record = serde_json::from_str(&text)
            .map_err(|error| format!("slot {} holds no record: {error}", slot.name()))?;
        Ok(Some(Minted { record, proved }))
    };
    let (active, mac): (String, [u8; MAC_BYTES]) = database
        .query_row("SELECT active, mac FROM state WHERE only = 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .map_err(sqlite)?;
    let active = [Slot::A, Slot::B]
        .into_iter()
        .find(|slot| slot.name() == active)
        .ok_or_else(|| "it has no active slot".to_owned())?;
    Ok((Installed { active, a: minted(Slot::A)?, b: minted(Slot::B)? }, mac))
}

fn random() -> std::io::Result<[u8; MAC_BYTES]> {
    let mut bytes = [0; MAC_BYTES];
    // Up to 256 bytes come whole (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

/// Removes snapshots that no slot names.
pub fn remove_unused(dir: &Path, installed: &Installed) -> std::io::Result<()> {
    let used: Vec<&Path> = [&installed.a, &installed.b]
        .into_iter()
        .flatten()
        .map(|minted| minted.record.snapshot.as_path())
        .collect();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "snapshot") && !used.contains(&path.as_path())
        {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
