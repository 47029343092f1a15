//! Files that a person may change while the agent runs.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{error, info};

/// How long a file is taken to be unchanged before its metadata is read again.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Largest file.
const MAX_BYTES: u64 = 1 << 20;

/// Why the content of a file cannot be used. Nothing old is used in its place: the change may have
/// been made to forbid something.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path}: {reason}", path = path.display())]
pub struct WatchError {
    path: PathBuf,
    reason: String,
}

/// Understands the text of a file, or says in words why not.
type Parse<T> = Box<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

/// The meaning of a file, read again when the file changes.
pub struct Watched<T> {
    path: PathBuf,
    parse: Parse<T>,
    /// What an absent file means. `None`: it has to be there.
    absent: Option<Arc<T>>,
    state: Mutex<WatchState<T>>,
}

struct WatchState<T> {
    polled: Option<Instant>,
    stamp: Option<Stamp>,
    /// Whether the file has been there once.
    seen: bool,
    content: Result<Arc<T>, WatchError>,
}

/// The metadata of a file. Two equal stamps mean that the file was not written in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Absent,
    Present { inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
}

impl<T> Watched<T> {
    /// A file that has to exist.
    pub fn required(
        path: impl Into<PathBuf>,
        parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    ) -> Self {
        Self::new(path.into(), Box::new(parse), None)
    }

    /// A file that may be absent, and then means `absent`: until it has been there once. A file that
    /// was there and is gone was moved away, perhaps only for a moment, and cannot be used.
    pub fn optional(
        path: impl Into<PathBuf>,
        absent: T,
        parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    ) -> Self {
        Self::new(path.into(), Box::new(parse), Some(Arc::new(absent)))
    }

    fn new(path: PathBuf, parse: Parse<T>, absent: Option<Arc<T>>) -> Self {
        let content = Err(WatchError { path: path.clone(), reason: "not read yet".into() });
        Self {
            path,
            parse,
            absent,
            state: Mutex::new(WatchState { polled: None, stamp: None, seen: false, content }),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file means now, at most a quarter of a second ago.
    pub fn current(&self) -> Result<Arc<T>, WatchError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.polled.is_none_or(|polled| polled.elapsed() >= POLL_INTERVAL) {
            self.poll(&mut state);
        }
        state.content.clone()
    }

    /// Has the next call of [`Self::current`] read the metadata, however soon it comes.
    pub fn expire(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).polled = None;
    }

    /// Has the next call of [`Self::current`] read the file as if for the first time, also where its
    /// metadata say that it has not changed: two writes within one tick of the clock look alike.
    pub fn read_again(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.polled, state.stamp, state.seen) = (None, None, false);
    }

    fn poll(&self, state: &mut WatchState<T>) {
        let first = state.stamp.is_none();
        // The stamp is taken before reading: a write in between shows at the next poll.
        let stamp = Stamp::of(&self.path);
        state.polled = Some(Instant::now());
        if stamp.is_ok() && state.stamp == stamp.as_ref().ok().copied() {
            return;
        }
        state.content = stamp
            .as_ref()
            .map_err(|e| self.refuse(e.to_string()))
            .and_then(|stamp| self.read(*stamp, state.seen))
            .inspect_err(|error| error!(%error, "cannot be used, so commands are refused"));
        state.seen |= matches!(stamp, Ok(Stamp::Present { .. }));
        state.stamp = stamp.ok();
        if state.content.is_ok() && !first {
            info!(file = %self.path.display(), "read again after a change");
        }
    }

    fn read(&self, stamp: Stamp, seen: bool) -> Result<Arc<T>, WatchError> {
        match (stamp, &self.absent) {
            (Stamp::Absent, Some(absent)) if !seen => return Ok(Arc::clone(absent)),
            (Stamp::Absent, Some(_)) => {
                let reason =
                    "it was there and is gone; restore it, or send SIGHUP to serve without it";
                return Err(self.refuse(reason.into()));
            }
            (Stamp::Absent, None) => return Err(self.refuse("there is no such file".into())),
            (Stamp::Present { size, .. }, _) if size > MAX_BYTES => {
                return Err(self.refuse(format!("{size} bytes are too many: at most {MAX_BYTES}")));
            }
            (Stamp::Present { .. }, _) => {}
        }
        let text = fs::read_to_string(&self.path).map_err(|e| self.refuse(e.to_string()))?;
        (self.parse)(&text).map(Arc::new).map_err(|reason| self.refuse(reason))
    }

    fn refuse(&self, reason: String) -> WatchError {
        WatchError { path: self.path.clone(), reason }
    }
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Self> {
        match fs::metadata(path) {
            Ok(data) => Ok(Self::Present {
                inode: data.ino(),
                size: data.size(),
                modified: (data.mtime(), data.mtime_nsec()),
                changed: (data.ctime(), data.ctime_nsec()),
            }),
            // A link to a file that is gone was made for that file.
            Err(e) if e.kind() == ErrorKind::NotFound && path.is_symlink() => Err(e),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::Absent),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<u32, String> {
        text.trim().parse().map_err(|_| format!("{text:?} is not a number"))
    }

    #[test]
    fn a_change_is_seen_and_a_bad_one_leaves_nothing_to_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let watched = Watched::required(&path, number);
        assert!(watched.current().unwrap_err().to_string().contains("no such file"));

        for (text, expected) in [("1", Ok(1)), ("2", Ok(2)), ("x", Err(())), ("3", Ok(3))] {
            fs::write(&path, text).unwrap();
            watched.expire();
            let found = watched.current();
            assert_eq!(found.as_deref().map_err(|_| ()).copied(), expected, "{text}");
            if let Err(error) = found {
                assert!(error.to_string().contains("not a number"), "{error}");
            }
        }
        fs::remove_file(&path).unwrap();
        watched.expire();
        assert!(watched.current().is_err());
    }

    #[test]
    fn an_absent_file_can_have_a_meaning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let watched = Watched::optional(&path, 7, number);
        assert_eq!(*watched.current().unwrap(), 7);
        fs::write(&path, "8").unwrap();
        watched.expire();
        assert_eq!(*watched.current().unwrap(), 8);
    }

    #[test]
    fn a_file_that_was_there_does_not_become_absent() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("n"), dir.path().join("aside"));
        fs::write(&path, "8").unwrap();
        let watched = Watched::optional(&path, 7, number);
        assert_eq!(*watched.current().unwrap(), 8);
        fs::rename(&path, &aside).unwrap();
        for _ in 0..2 {
            watched.expire();
            assert!(watched.current().unwrap_err().to_string().contains("is gone"));
        }
        fs::rename(&aside, &path).unwrap();
        watched.expire();
        assert_eq!(*watched.current().unwrap(), 8);
        fs::rename(&path, &aside).unwrap();
        watched.read_again();
        assert_eq!(*watched.current().unwrap(), 7, "the operator said so");
    }

    #[test]
    fn a_link_without_its_file_is_not_an_absent_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &path).unwrap();
        Watched::optional(&path, 7, number).current().unwrap_err();
    }

    #[test]
    fn a_file_that_looks_unchanged_is_read_when_asked_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        fs::write(&path, "1").unwrap();
        let reads = Arc::new(Mutex::new(0));
        let count = Arc::clone(&reads);
        let watched = Watched::required(&path, move |text| {
            *count.lock().unwrap() += 1;
            number(text)
        });
        for _ in 0..3 {
            watched.read_again();
            watched.current().unwrap();
        }
        assert_eq!(*reads.lock().unwrap(), 3);
    }

    #[test]
    fn an_unchanged_file_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        fs::write(&path, "1").unwrap();
        let reads = Arc::new(Mutex::new(0));
        let count = Arc::clone(&reads);
        let watched = Watched::required(&path, move |text| {
            *count.lock().unwrap() += 1;
            number(text)
        });
        for _ in 0..3 {
            watched.expire();
            watched.current().unwrap();
        }
        assert_eq!(*reads.lock().unwrap(), 1);
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        fs::File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        let error = Watched::required(&path, number).current().unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
    }
}
