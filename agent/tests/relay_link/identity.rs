//! An enrolled endpoint.

use std::path::{Path, PathBuf};

use brainstorm_agent::store::identity::{PendingIdentity, Registration};

/// Writes an identity with a key of its own.
pub fn write(dir: &Path) -> PathBuf {
    let path = dir.join("identity.json");
    let registration = Registration {
        endpoint_id: "dc4a8b19-91c5-4c30-b66d-549dc96aea71".to_owned(),
        tenant_id: "6e5b2e09-42f7-474d-a196-14a731771b84".to_owned(),
        registered_at: "2026-01-02T03:04:05.678Z".to_owned(),
        relay: "https://relay.example".to_owned(),
    };
    PendingIdentity::prepare(&path, false).unwrap().enrolled(registration).unwrap();
    path
}
