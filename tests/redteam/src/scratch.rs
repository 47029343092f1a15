//! A directory of its own for what a probe writes on the host.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// A directory, removed with all that is in it when dropped. Links in it are not followed.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty one.
    pub fn new() -> std::io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("redteam-{}", Uuid::new_v4()));
        fs::create_dir(&directory)?;
        Ok(Self(directory))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
