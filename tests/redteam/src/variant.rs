//! The attack image under another guest program: same kernel, same disk, another `init=`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use sandbox::ImageSource;

const SHIPPED_INIT: &str = "init=/sbin/init";
const FILES: [&str; 2] = ["vmlinux", "rootfs.ext4"];

/// A directory with an image that starts another guest program, removed when dropped.
#[derive(Debug)]
pub struct Variant {
    directory: PathBuf,
}

impl Variant {
    /// Makes an image of the kernel and disk in `original`. On its kernel command line, `arguments`
    /// take the place of the usual `init=`.
    pub fn new(original: &Path, arguments: &str) -> std::io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("redteam-{}", Uuid::new_v4()));
        fs::create_dir(&directory)?;
        let variant = Self { directory };
        let original = fs::canonicalize(original)?;
        for name in FILES {
            symlink(original.join(name), variant.directory.join(name))?;
        }
        let manifest = fs::read_to_string(original.join("manifest.json"))?;
        if !manifest.contains(SHIPPED_INIT) {
            return Err(std::io::Error::other(
                "the image's manifest does not say which program is PID 1: build it again with \
                 `cargo xtask image --flavour attack`",
            ));
        }
        let changed = manifest.replace(SHIPPED_INIT, arguments);
        fs::write(variant.directory.join("manifest.json"), changed)?;
        Ok(variant)
    }

    /// The image in this directory.
    pub fn source(&self) -> ImageSource {
        ImageSource::directory(&self.directory)
    }
}

impl Drop for Variant {
    fn drop(&mut self) {
        // Links only: what they point to stays.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
