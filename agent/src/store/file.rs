//! Files that belong to this user alone and are on disk when it is said that they are.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FsWord;

use super::StoreError;

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;
/// Mode of every file in the state directory.
const PRIVATE: u32 = 0o600;

// linux/magic.h
const TMPFS_MAGIC: FsWord = 0x0102_1994;
const RAMFS_MAGIC: FsWord = 0x8584_58f6;

/// What is known of a file that only this user may touch; nothing when it does not exist.
///
/// The file is not opened: closing it again would drop the locks SQLite holds on it for this
/// process (fcntl(2), "advisory record locking").
pub(super) fn private_metadata(path: &Path) -> Result<Option<Metadata>, StoreError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::of_io(path, &error)),
    };
    if !found.is_file() {
        let detail = "is not a plain file; move it away".to_owned();
        return Err(StoreError::Permissions { path: path.to_path_buf(), detail });
    }
    refuse_others(path, &found, PRIVATE)?;
    Ok(Some(found))
}

/// Refuses a file that another user owns or may touch.
pub(super) fn refuse_others(path: &Path, found: &Metadata, mode: u32) -> Result<(), StoreError> {
    let user = rustix::process::geteuid().as_raw();
    let detail = if found.uid() != user {
        format!("belongs to user {}, not to user {user}; change its owner", found.uid())
    } else if found.mode() & OTHERS != 0 {
        let bits = found.mode() & 0o777;
        format!("can be used by others (mode {bits:03o}); run: chmod {mode:03o} {}", path.display())
    } else {
        return Ok(());
    };
    Err(StoreError::Permissions { path: path.to_path_buf(), detail })
}

/// Makes an empty file of mode 0600, whatever the umask, where there is none.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(PRIVATE).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(PRIVATE))?;
    Ok(file)
}

/// The name under which a file is prepared before it takes its place.
pub(super) fn temp_path(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// Puts a file of mode 0600 with this content in place of another, or of none. After a crash
/// there is the old one or the new one, whole.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temp_path(path);
    remove(&temporary)?;
    let mut file = create_private(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    rename_into_place(&temporary, path)
}

/// [`replace`], with an error that says what to do.
pub fn replace_durably(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    replace(path, content).map_err(|error| StoreError::of_io(path, &error))
}

/// Removes a file that need not exist; it is gone from the disk when this returns `Ok`.
pub fn remove_durably(path: &Path) -> Result<(), StoreError> {
    remove(path)
        .and_then(|()| sync_directory_of(path))
        .map_err(|error| StoreError::of_io(path, &error))
}

/// [`rename_into_place`], with an error that says what to do.
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), StoreError> {
    rename_into_place(from, to).map_err(|error| StoreError::of_io(to, &error))
}

/// Renames a file that is on disk already; the new name is on disk afterwards.
pub(super) fn rename_into_place(aside: &Path, path: &Path) -> io::Result<()> {
    fs::rename(aside, path)?;
    sync_directory_of(path)
}

/// Makes changes of names in the directory of `path` durable.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// Removes a file that need not exist.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The directory that a file is in. The file need not exist.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The kind of file system, when it forgets everything at a restart.
pub(super) fn volatile_filesystem(path: &Path) -> Result<Option<&'static str>, StoreError> {
    let found = rustix::fs::statfs(path).map_err(|error| StoreError::of_io(path, &error.into()))?;
    Ok(match found.f_type {
        TMPFS_MAGIC => Some("tmpfs"),
        RAMFS_MAGIC => Some("ramfs"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::mode;

    #[test]
    fn a_replaced_file_is_whole_private_and_leaves_nothing_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(temp_path(&path), "left by a crash").unwrap();
        replace(&path, b"first").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_others_may_touch_links_and_directories_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert!(private_metadata(&path).unwrap().is_none());
        replace(&path, b"").unwrap();
        assert!(private_metadata(&path).unwrap().is_some());
        for bits in [0o640, 0o604, 0o601, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            let message = private_metadata(&path).unwrap_err().to_string();
            assert!(message.contains("chmod 600"), "{message}");
        }
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for path in [link.as_path(), directory.path()] {
            let error = private_metadata(path).unwrap_err();
            assert!(matches!(error, StoreError::Permissions { .. }), "{error}");
        }
    }

    #[test]
    fn files_of_another_user_are_refused() {
        let other_user = if rustix::process::geteuid().is_root() { 65534 } else { 0 };
        let directory = tempfile::tempdir().unwrap();
        let path = if other_user == 0 {
            PathBuf::from("/proc/1/environ")
        } else {
            let path = directory.path().join("file");
            replace(&path, b"").unwrap();
            std::os::unix::fs::chown(&path, Some(other_user), None).unwrap();
            path
        };
        let message = private_metadata(&path).unwrap_err().to_string();
        assert!(message.contains("belongs to user"), "{message}");
    }

    #[test]
    fn memory_is_no_disk() {
        let memory = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::empty()).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
        assert_eq!(volatile_filesystem(Path::new(&path)).unwrap(), Some("tmpfs"));
        assert_eq!(volatile_filesystem(Path::new("/proc")).unwrap(), None);
    }
}
