//! Notes in the audit log by a command that is not the serving agent.

use serde_json::Value;

use super::{AuditEntry, AuditLog, Channel, StateDir, StoreError};
use protocol::{Timestamp, canonical_bytes};

/// Writes an entry that concerns no command; on disk when this returns. The directory is held, so no
/// agent is writing meanwhile.
pub fn note_in_audit(state_dir: &StateDir, kind: &str, payload: &Value) -> Result<(), StoreError> {
    note_with_code(state_dir, kind, None, payload)
}

/// Appends an entry that has one of the protocol's codes.
pub fn note_with_code(
    state_dir: &StateDir,
    kind: &str,
    code: Option<&str>,
    payload: &Value,
) -> Result<(), StoreError> {
    let path = state_dir.audit();
    let refused = |detail: String| StoreError::Refused { path: path.clone(), detail };
    let payload = canonical_bytes(payload).map_err(|error| refused(error.to_string()))?;
    let log = AuditLog::open(&path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| StoreError::of_io(&path, &error))?;
    let entry = AuditEntry {
        code: code.map(str::to_owned),
        ..AuditEntry::new(Timestamp::now(), Channel::Endpoint, kind, payload)
    };
    runtime.block_on(log.append_durable(entry)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::verify_audit;

    #[test]
    fn a_note_is_a_row_like_others() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(&directory.path().join("state")).unwrap();
        for slot in ["A", "B"] {
            let payload = serde_json::json!({ "slot": slot });
            note_in_audit(&state_dir, "BaselinesInstalled", &payload).unwrap();
        }
        assert_eq!(verify_audit(&state_dir.audit()).unwrap().rows, 2);
    }
}
