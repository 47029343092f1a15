//! The ready file: all that a program on this machine needs to use the relay.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use dev_relay::DevRelay;
use serde::{Deserialize, Serialize};

/// A ready file is a few hundred bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Who the operator is unless another is named.
pub const OPERATOR: &str = "operator@local";

/// What the file holds. It has secrets in it: mode 0600.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// Where endpoints and operators connect, without a path.
    pub ws_url: String,
    /// Where endpoints enroll, without a path.
    pub http_url: String,
    /// The tenant.
    pub tenant_id: String,
    /// Verifies envelopes.
    pub tenant_public_key_hex: String,
    /// What envelopes call that key.
    pub signing_key_id: String,
    /// Bearer token of the administration calls.
    pub admin_token: String,
    /// Good for one enrollment.
    pub bootstrap_token: String,
    /// Whom that token enrolls.
    pub endpoint_id: String,
    /// What operators derive their key from.
    pub operator_api_key: String,
    /// Who the operator is.
    pub operator_id: String,
}

/// Why a ready file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}", path = path.display())]
pub struct ReadyError {
    path: PathBuf,
    what: String,
}

impl Ready {
    /// What `relay` is to be used with; issues a fresh bootstrap token.
    pub fn of(relay: &DevRelay) -> Self {
        let token = relay.issue_token(None);
        Self {
            ws_url: relay.ws_url(),
            http_url: relay.http_url(),
            tenant_id: relay.tenant_id().to_owned(),
            tenant_public_key_hex: relay.tenant_public_key_hex(),
            signing_key_id: relay.signing_key_id(),
            admin_token: relay.admin_token().to_owned(),
            bootstrap_token: token.token,
            endpoint_id: token.endpoint_id,
            operator_api_key: relay.operator_api_key().to_owned(),
            operator_id: OPERATOR.to_owned(),
        }
    }

    /// Writes the file aside and renames it: whoever sees it sees all of it.
    pub fn write(&self, path: &Path) -> Result<(), ReadyError> {
        let failed = |what: String| ReadyError { path: path.to_owned(), what };
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.to_string()))?;
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&aside)?;
            writeln!(file, "{text}")?;
            fs::rename(&aside, path)
        };
        write().map_err(|error| {
            // Already the reason to complain; what is left behind is a second one.
            let _ = fs::remove_file(&aside);
            failed(format!("cannot be written: {error}"))
        })
    }

    /// Reads the file of a relay that is ready.
    pub fn read(path: &Path) -> Result<Self, ReadyError> {
        let failed = |what: String| ReadyError { path: path.to_owned(), what };
        let file = File::open(path)
            .map_err(|error| failed(format!("cannot be read: {error}; is the relay running?")))?;
        let mut text = String::new();
        file.take(MAX_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(|error| failed(format!("cannot be read: {error}")))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(failed("is too long to be a ready file".to_owned()));
        }
        serde_json::from_str(&text).map_err(|error| failed(format!("is no ready file: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use dev_relay::Config;

    use super::*;

    #[tokio::test]
    async fn what_is_written_can_be_read_by_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("relay.json");
        let relay = DevRelay::start(Config::default()).await.unwrap();
        let ready = Ready::of(&relay);
        ready.write(&path).unwrap();
        let read = Ready::read(&path).unwrap();
        assert_eq!(read.bootstrap_token, ready.bootstrap_token);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn anything_else_is_refused_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("relay.json");
        let complaint = |path: &Path| Ready::read(path).unwrap_err().to_string();
        assert!(complaint(&path).contains("relay.json"), "{}", complaint(&path));
        fs::write(&path, "{}").unwrap();
        assert!(complaint(&path).contains("is no ready file"), "{}", complaint(&path));
        fs::write(&path, " ".repeat((64 << 10) + 1)).unwrap();
        assert!(complaint(&path).contains("too long"), "{}", complaint(&path));
    }
}
