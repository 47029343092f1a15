//! Starting with what is installed, and going back when the newest does not hold.

use thiserror::Error;
use tracing::warn;

use super::record::{Mismatch, Record};
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
    /// The machine could not be restored, or did not pass its first verified reset.
    #[error("{0}; run `brainstorm-agent install` again")]
    Machine(String),
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

/// Makes something of the active record, which includes a verified reset. When that fails for a record
/// that has never proved itself, the other slot becomes the active one, and is tried; when it passes
/// the record has proved itself. `None` where nothing is installed.
pub fn start<T>(
    store: &BaselineStore<'_>,
    mut attempt: impl FnMut(&Record) -> Result<T, StartError>,
) -> Result<Option<Started<T>>, StartError> {
    let Some(installed) = store.load()? else { return Ok(None) };
    let Some(newest) = installed.active() else { return Err(BaselineError::Nothing.into()) };
    let slot = installed.active;
    let failed = match attempt(&newest.record) {
        Ok(made) => {
            store.confirm()?;
            return Ok(Some(Started { made, slot, rolled_back: None }));
        }
        Err(StartError::Machine(reason)) if !newest.proved => reason,
        Err(error) => return Err(error),
    };
    let Some(earlier) = installed.slot(slot.other()).filter(|earlier| earlier.proved) else {
        return Err(StartError::Machine(failed));
    };
    warn!(reason = failed, "what was installed last failed its first verified reset: going back");
    let made = attempt(&earlier.record).map_err(|error| {
        StartError::Machine(format!("{failed}; and what was installed before it: {error}"))
    })?;
    let slot = store.rollback()?;
    Ok(Some(Started { made, slot, rolled_back: Some(failed) }))
}
