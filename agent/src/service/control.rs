//! The control socket: a Unix socket in the state directory. A client writes one word and a line
//! feed, and reads the answer to its end: `status` (JSON), `metrics` (Prometheus's text
//! format), `reload` (keys and policy), `clear` and a [`Clearance`] as JSON in the same line (JSON,
//! a [`ClearAnswer`]).

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tracing::{debug, warn};

use super::ServiceError;
use super::clearing::ClearAnswer;
use super::status::StatusSource;
use crate::commands::Clearance;

/// Longest request.
const MAX_REQUEST: u64 = 64 << 10;
/// Longest answer.
const MAX_ANSWER: u64 = 4 << 20;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long either side waits for an answer that has to be on disk first.
const DISK_PATIENCE: Duration = Duration::from_secs(30);

/// Why a running agent gave no answer.
#[derive(Debug, Error)]
pub enum ControlError {
    /// No process listens on the socket.
    #[error("no agent is running with this state directory: no process listens at {path}", path = path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Something else.
    #[error("cannot ask the agent at {path}: {source}", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Answers at a path until the runtime ends. The state directory's lock is held, so a socket that
/// is there already belongs to no running agent.
pub(super) fn listen(path: &Path, source: Arc<StatusSource>) -> Result<(), ServiceError> {
    let listen = || {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener = listen()
        .map_err(|source| ServiceError::Host { what: "make the control socket", source })?;
    tokio::spawn(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let source = Arc::clone(&source);
            tokio::spawn(async move {
                let answered = tokio::time::timeout(DISK_PATIENCE, answer(stream, &source)).await;
                if let Ok(Err(error)) = answered {
                    debug!(%error, "a question on the control socket was not answered");
                }
            });
        }
    });
    Ok(())
}

async fn answer(mut stream: tokio::net::UnixStream, source: &StatusSource) -> io::Result<()> {
    let mut request = Vec::new();
    let read = async {
        let mut limited = (&mut stream).take(MAX_REQUEST);
        while !request.contains(&b'\n') {
            if limited.read_buf(&mut request).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    tokio::time::timeout(PATIENCE, read).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let request = request.trim_ascii();
    let clearance = request.strip_prefix(b"clear ").map(serde_json::from_slice::<Clearance>);
    let answer = match request {
        _ if clearance.is_some() => {
            let answer = match clearance.transpose() {
                Ok(Some(clearance)) => source.clear(clearance).await,
                other => {
                    let why = other.err().map_or_else(String::new, |error| error.to_string());
                    ClearAnswer { cleared: None, error: Some(format!("not understood: {why}")) }
                }
            };
            serde_json::to_string(&answer)? + "\n"
        }
        b"status" => serde_json::to_string_pretty(&source.status())? + "\n",
        b"metrics" => source.metrics(),
        b"reload" => {
            source.reload();
            "ok\n".to_owned()
        }
        _ => "error: say status, metrics, reload or clear\n".to_owned(),
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Asks a running agent.
pub fn ask(socket: &Path, word: &str) -> Result<String, ControlError> {
    ask_for(socket, word, PATIENCE)
}

/// Asks a running agent to leave degraded mode.
pub fn ask_to_clear(socket: &Path, clearance: &Clearance) -> Result<ClearAnswer, ControlError> {
    let io = |error: serde_json::Error| ControlError::Io {
        path: socket.to_owned(),
        source: error.into(),
    };
    let request = serde_json::to_string(clearance).map_err(io)?;
    let answer = ask_for(socket, &format!("clear {request}"), DISK_PATIENCE)?;
    serde_json::from_str(&answer).map_err(io)
}

fn ask_for(socket: &Path, request: &str, patience: Duration) -> Result<String, ControlError> {
    let io = |source| ControlError::Io { path: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning { path: socket.to_owned() }
        }
        _ => io(source),
    })?;
    stream.set_read_timeout(Some(patience)).map_err(io)?;
    stream.set_write_timeout(Some(patience)).map_err(io)?;
    writeln!(stream, "{request}").map_err(io)?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).map_err(io)?;
    Ok(answer)
}
