//! The kernel's source: which package has it, and what exactly it holds now.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use guest::manifest::Input;
use serde::Deserialize;

use super::digest;
use crate::packages;

/// `kernel-config/source.toml`.
pub const PINNED: &str = include_str!("../../../kernel-config/source.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pinned {
    package: String,
    series: String,
    archive: PathBuf,
    #[serde(rename = "change", default)]
    changes: Vec<Change>,
}

/// Text of the source that is built otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Path in the source.
    file: PathBuf,
    /// What is there, exactly once.
    old: String,
    /// What is built.
    new: String,
}

impl Change {
    /// Changes the unpacked source in `tree`.
    pub fn apply(&self, tree: &Path) -> Result<()> {
        let path = tree.join(&self.file);
        let failed = || format!("changing the kernel's {}", self.file.display());
        let text = fs::read_to_string(&path).with_context(failed)?;
        let found = text.matches(&self.old).count();
        ensure!(
            found == 1,
            "kernel-config/source.toml changes {:?} in {}, which this source has {found} times: \
             adapt it to the source",
            self.old,
            self.file.display()
        );
        fs::write(&path, text.replacen(&self.old, &self.new, 1)).with_context(failed)
    }
}

/// The source as installed.
#[derive(Debug)]
pub struct KernelSource {
    /// A tar archive with one directory.
    pub archive: PathBuf,
    /// Digest of the archive and version of its package.
    pub input: Input,
    /// What is built otherwise.
    pub changes: Vec<Change>,
}

impl KernelSource {
    /// Installs the source if need be and looks at it.
    pub fn find() -> Result<Self> {
        let pinned = pinned()?;
        packages::ensure(&[&pinned.package])?;
        let version = packages::version(&pinned.package)?;
        check_series(&version, &pinned.series)?;
        let (sha256, _) = digest::of_file(&pinned.archive)?;
        let input = Input { sha256, version: Some(version) };
        Ok(Self { archive: pinned.archive, input, changes: pinned.changes })
    }
}

fn pinned() -> Result<Pinned> {
    toml::from_str(PINNED).context("kernel-config/source.toml is not understood")
}

fn check_series(version: &str, series: &str) -> Result<()> {
    let same = version.strip_prefix(series).is_some_and(|rest| rest.starts_with(['.', '-']));
    ensure!(
        same,
        "the archive offers kernel source {version}, but the configuration is proven with series \
         {series}: adapt kernel-config/ to the new series"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_source_is_understood() {
        let pinned = pinned().unwrap();
        assert!(pinned.package.ends_with(&pinned.series), "{pinned:?}");
    }

    #[test]
    fn a_change_is_made_where_its_text_is_once_and_refused_elsewhere() {
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("a.h");
        let [file, old, new] = ["a.h", "1", "2"];
        let change = Change { file: file.into(), old: old.into(), new: new.into() };
        fs::write(&path, "x 1 y").unwrap();
        change.apply(tree.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x 2 y");
        for (text, times) in [("x 2 y", "0 times"), ("1 1", "2 times")] {
            fs::write(&path, text).unwrap();
            let error = change.apply(tree.path()).unwrap_err().to_string();
            assert!(error.contains(times), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn other_series_are_refused() {
        assert!(check_series("6.12.117-1~deb12u1", "6.12").is_ok());
        assert!(check_series("6.1.117-1", "6.12").is_err());
        let error = check_series("6.120.1-1", "6.12").unwrap_err();
        assert!(error.to_string().contains("6.120.1-1"), "{error}");
    }
}
