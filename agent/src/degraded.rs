//! Degraded mode: once a machine could not be shown to be golden, no command runs until a person
//! has looked and said why it may go on.
//!
//! The file `degraded.json` in the state directory is the latch: as long as it is there, also
//! damaged, also after a restart, every command is refused. It is on disk before it is reported
//! of what happened, also where the disk is full: room for it is reserved while the agent serves. What
//! was saved of the machine lies in a directory under `forensics`, named in the file; [`explain`] puts
//! both into words.

pub mod explain;
mod forensics;
mod record;
mod reserve;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::Notify;
use tracing::{error, warn};

use crate::store::{StoreError, remove_durably};
use sandbox::{Incident, IncidentHandler};

pub use forensics::{MAX_BUNDLES, MAX_BYTES};
pub use record::{IncidentRecord, MAX_RECORD_BYTES};

/// Commands whose incidents are remembered, so that none is counted twice.
const REMEMBERED: usize = 64;

/// Why degraded mode was not left.
#[derive(Debug, Error)]
pub enum ClearError {
    /// Something else has happened since the record was looked at.
    #[error("there has been another incident meanwhile: look at it with `explain` first")]
    Changed,
    /// The file cannot be removed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Degraded mode of one agent.
pub struct DegradedMode {
    state_dir: PathBuf,
    state: Mutex<Latch>,
    /// There are incidents that were not reported, or a latch that is not on disk.
    news: Notify,
}

#[derive(Default)]
struct Latch {
    current: Option<Arc<IncidentRecord>>,
    /// Commands whose incidents are known, the latest last.
    known: VecDeque<String>,
    untold: Vec<Arc<IncidentRecord>>,
    /// The latch could not be written.
    unsaved: bool,
    /// There is no room reserved for the latch.
    unreserved: bool,
}

impl DegradedMode {
    /// Reads the latch of a state directory. What cannot be read counts as degraded. Where there is none,
    /// room for one is reserved.
    pub fn open(state_dir: &Path) -> Self {
        let current = IncidentRecord::load(state_dir).map(Arc::new);
        if let Some(record) = &current {
            warn!(since = %record.since, reason = record.reason, "degraded: no command will run");
        }
        let mut state = Latch { current, ..Latch::default() };
        reserve(state_dir, &mut state);
        Self { state_dir: state_dir.to_owned(), state: Mutex::new(state), news: Notify::new() }
    }

    /// Why no command runs; `None` when they may.
    pub fn current(&self) -> Option<Arc<IncidentRecord>> {
        self.lock().current.clone()
    }

    /// Enters degraded mode, or notes that there was one more incident. The latch is on disk first,
    /// then what is left of the machine; both are when this returns. When they cannot be written,
    /// degraded mode holds all the same for as long as this process lives.
    ///
    /// An incident of a command that is known already is the same incident.
    pub fn halt(&self, incident: &Incident) {
        let Some(mut record) = self.enter(incident) else { return };
        let named = self.current().and_then(|current| current.bundle.clone());
        match forensics::save(&self.state_dir, &record, &incident.dump, named.as_deref()) {
            Ok(bundle) => record.bundle = Some(bundle),
            Err(error) => error!(%error, "what is left of the machine could not be saved"),
        }
        let mut state = self.lock();
        if let Some(current) = &state.current
            && current.is_of(&record)
            && current.bundle != record.bundle
        {
            let bundle = record.bundle.clone();
            state.current = Some(Arc::new(IncidentRecord { bundle, ..(**current).clone() }));
            self.save(&mut state);
        }
        state.untold.push(Arc::new(record));
        drop(state);
        self.news.notify_one();
    }

    /// The latch alone. `None` when the incident is known.
    fn enter(&self, incident: &Incident) -> Option<IncidentRecord> {
        let mut state = self.lock();
        if let Some(id) = &incident.command_id {
            if state.known.contains(id) {
                return None;
            }
            if state.known.len() == REMEMBERED {
                state.known.pop_front();
            }
            state.known.push_back(id.clone());
        }
        let record = IncidentRecord::of(incident);
        error!(code = record.code, command = ?record.command_id, "{}", record.reason);
        let current = match &state.current {
            None => record.clone(),
            Some(first) => first.with_another(),
        };
        state.current = Some(Arc::new(current));
        self.save(&mut state);
        Some(record)
    }

    /// Leaves degraded mode: `seen` is what [`DegradedMode::current`] gave to the person who
    /// decides. The latch is gone from the disk when this returns `Ok`.
    pub fn clear(&self, seen: &Arc<IncidentRecord>) -> Result<(), ClearError> {
        let mut state = self.lock();
        if !state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, seen)) {
            return Err(ClearError::Changed);
        }
        remove_durably(&IncidentRecord::path(&self.state_dir))?;
        state.current = None;
        state.unsaved = false;
        reserve(&self.state_dir, &mut state);
        Ok(())
    }

    /// Incidents since the last call, for the audit log and the callers.
    pub fn take_news(&self) -> Vec<Arc<IncidentRecord>> {
        let mut state = self.lock();
        if state.unsaved {
            self.save(&mut state);
        }
        if state.unreserved {
            reserve(&self.state_dir, &mut state);
        }
        std::mem::take(&mut state.untold)
    }

    /// Waits until [`DegradedMode::take_news`] has something to give.
    pub async fn wait_for_news(&self) {
        self.news.notified().await;
    }

    fn save(&self, state: &mut Latch) {
        let Some(record) = &state.current else { return };
        let written = reserve::latch(&self.state_dir, &record.to_bytes());
        state.unsaved = written.is_err();
        if let Err(error) = written {
            if IncidentRecord::load(&self.state_dir).is_some() {
                error!(%error, "degraded mode is on disk, the latest of what led to it is not");
            } else {
                error!(%error, "degraded mode is not on disk: it would not survive a restart");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Latch> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reserves room for the latch. A degraded agent needs none.
fn reserve(state_dir: &Path, state: &mut Latch) {
    state.unreserved = false;
    if state.current.is_some() {
        return;
    }
    if let Err(error) = reserve::make(state_dir) {
        state.unreserved = true;
        error!(%error, "no room is reserved for degraded mode: on a full disk it would not survive a restart");
    }
}

impl IncidentHandler for DegradedMode {
    fn on_incident(&self, incident: Incident) {
        self.halt(&incident);
    }
}

#[cfg(test)]
mod reserve_tests;
#[cfg(test)]
mod tests;
