//! Says early that a disk is nearly full: what then fails says anything but that.

use std::path::Path;

use indicatif::DecimalBytes;

use crate::workspace;

/// What the tests' first run writes to the build directory and the cache, in bytes.
const FIRST_RUN: u64 = 10_000_000_000;

/// Warns where the build directory or the cache may have too little room for a first run.
pub fn warn_if_short() {
    for (directory, variable) in [
        (workspace::target_dir(), "CARGO_TARGET_DIR"),
        (workspace::cache_dir(), workspace::CACHE_VARIABLE),
    ] {
        let Ok(directory) = directory else { continue };
        if let Some(free) = free(&directory).filter(|free| *free < FIRST_RUN) {
            eprintln!("{}", warning(&directory, free, variable));
        }
    }
}

fn warning(directory: &Path, free: u64, variable: &str) -> String {
    format!(
        "Warning: {} are free for {}, and a first run writes up to {}. Make room, or name another \
         place in {variable}.",
        DecimalBytes(free),
        directory.display(),
        DecimalBytes(FIRST_RUN)
    )
}

/// Bytes that a user may still write where the directory is or will be.
fn free(directory: &Path) -> Option<u64> {
    let there = directory.ancestors().find(|ancestor| ancestor.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_that_of_the_disk_below() {
        let directory = tempfile::tempdir().unwrap();
        let later = directory.path().join("not/yet/there");
        assert!(free(&later).unwrap() > 0);
        assert_eq!(free(Path::new("/proc/self")), Some(0));
    }

    #[test]
    fn a_warning_says_how_much_where_and_what_to_do() {
        let text = warning(Path::new("/builds"), 1_260_000_000, "CARGO_TARGET_DIR");
        for part in ["1.26 GB", "/builds", "up to 10.00 GB", "in CARGO_TARGET_DIR"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
