//! Starting with what is installed, and going back when the newest does not hold.

use thiserror::Error;
use tracing::warn;

use super::record::{BaselineRecord, Mismatch};
use super::store::{BaselineError, BaselineStore, Slot};

/// Why the agent does not start with what is installed.
#[derive(Debug, Error)]
pub enum StartError {
    /// The baselines cannot be used.
    #[error(transparent)]
    Baselines(#[from] BaselineError),
    /// This is not what was installed.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The machine could not be restored.
    #[error("{0}; run `brainstorm-agent install` again")]
    Machine(String),
    /// What was restored is not what was written, or did not pass its first verified reset.
    #[error("{0}; look for tampering, then run `brainstorm-agent install` again")]
    NotAsInstalled(String),
}

impl StartError {
    /// Why no command may run until a person has looked. `None` where nothing need have been changed
    /// by an attacker.
    pub fn alarm(&self) -> Option<String> {
        match self {
            Self::Baselines(BaselineError::Changed { .. }) | Self::NotAsInstalled(_) => {
                Some(self.to_string())
            }
            Self::Mismatch(mismatch) if mismatch.is_measured() => Some(self.to_string()),
            Self::Baselines(_) | Self::Mismatch(_) | Self::Machine(_) => None,
        }
    }
}

/// What was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started<T> {
    /// Whatever was made of the record.
    pub made: T,
    /// The slot it was made of.
    pub slot: Slot,
    /// Why that is not the newest one.
    pub rolled_back: Option<String>,
}

/// What follows when the machine of a record fails its first verified reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The record that was installed before is tried.
    EarlierRecord,
    /// Nothing is tried: the failure is an incident.
    None,
}

/// Makes something of the active record, which includes a verified reset. When that fails for a record
/// that has never proved itself, the other slot becomes the active one, and is tried, if it has; when
/// it passes the record has proved itself. `None` where nothing is installed.
pub fn start<T>(
    store: &BaselineStore<'_>,
    mut attempt: impl FnMut(&BaselineRecord, Fallback) -> Result<T, StartError>,
) -> Result<Option<Started<T>>, StartError> {
    let Some(installed) = store.load()? else { return Ok(None) };
    let Some(newest) = installed.active() else { return Err(BaselineError::Nothing.into()) };
    let slot = installed.active;
    let earlier = installed.slot(slot.other()).filter(|earlier| earlier.proved && !newest.proved);
    let fallback = if earlier.is_some() { Fallback::EarlierRecord } else { Fallback::None };
    let (failed, earlier) = match (attempt(&newest.record, fallback), earlier) {
        (Ok(made), _) => {
            store.confirm()?;
            return Ok(Some(Started { made, slot, rolled_back: None }));
        }
        (Err(StartError::Machine(reason) | StartError::NotAsInstalled(reason)), Some(earlier)) => {
            (reason, earlier)
        }
        (Err(error), _) => return Err(error),
    };
    warn!(reason = failed, "what was installed last failed its first verified reset: going back");
    let made = attempt(&earlier.record, Fallback::None).map_err(|error| {
        let both = format!("{failed}; and what was installed before it: {error}");
        match error.alarm() {
            Some(_) => StartError::NotAsInstalled(both),
            None => StartError::Machine(both),
        }
    })?;
    let slot = store.rollback()?;
    Ok(Some(Started { made, slot, rolled_back: Some(failed) }))
}
