//! The kernel's source: which package has it, and what exactly it holds now.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use guest::manifest::Input;
use serde::Deserialize;

use super::digest;
use crate::packages;

const PINNED: &str = include_str!("../../../kernel-config/source.toml");

/// `kernel-config/source.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pinned {
    package: String,
    series: String,
    archive: PathBuf,
}

/// The source as installed.
#[derive(Debug)]
pub struct KernelSource {
    /// A tar archive with one directory.
    pub archive: PathBuf,
    /// Digest of the archive and version of its package.
    pub input: Input,
}

impl KernelSource {
    /// Installs the source if need be and looks at it.
    pub fn find() -> Result<Self> {
        let pinned = pinned()?;
        packages::ensure(&[&pinned.package])?;
        let version = packages::version(&pinned.package)?;
        check_series(&version, &pinned.series)?;
        let (sha256, _) = digest::of_file(&pinned.archive)?;
        Ok(Self { archive: pinned.archive, input: Input { sha256, version: Some(version) } })
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
    fn other_series_are_refused() {
        assert!(check_series("6.12.117-1~deb12u1", "6.12").is_ok());
        assert!(check_series("6.1.117-1", "6.12").is_err());
        let error = check_series("6.120.1-1", "6.12").unwrap_err();
        assert!(error.to_string().contains("6.120.1-1"), "{error}");
    }
}
