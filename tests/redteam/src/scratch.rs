//! A directory for the files that a probe writes on the host.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// A directory, removed with all that is in it when dropped. Links in it are not followed.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes an empty directory below the one for temporary files.
    pub fn new() -> std::io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("redteam-{}", Uuid::new_v4()));
        fs::create_dir(&directory)?;
        Ok(Self(directory))
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
