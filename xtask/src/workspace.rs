//! Where things are: the checkout, its build directory, and the cache outside of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Moves the cache somewhere else.
pub const CACHE_VARIABLE: &str = "BSM_CACHE_DIR";

/// The checkout's root directory.
pub fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("this program was built outside of a workspace")?;
    Ok(root.to_owned())
}

/// Cargo's build directory of this workspace.
pub fn target_dir() -> Result<PathBuf> {
    Ok(target_from(&root()?, std::env::var_os("CARGO_TARGET_DIR")))
}

/// Directory for what took long to make and serves several checkouts. May not exist yet.
pub fn cache_dir() -> Result<PathBuf> {
    cache_from(|name| std::env::var_os(name))
}

fn target_from(root: &Path, variable: Option<OsString>) -> PathBuf {
    match variable {
        // Cargo takes a relative path as relative to the current directory; joining keeps an
        // absolute one as it is.
        Some(path) if !path.is_empty() => {
            std::env::current_dir().unwrap_or_else(|_| root.to_owned()).join(path)
        }
        _ => root.join("target"),
    }
}

fn cache_from(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let directory = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(own) = directory(CACHE_VARIABLE) {
        return std::path::absolute(&own)
            .with_context(|| format!("{CACHE_VARIABLE} is {}", own.display()));
    }
    // The XDG specification has relative paths ignored.
    let cache = directory("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| directory("HOME").map(|home| home.join(".cache")))
        .with_context(|| format!("there is no HOME: name a cache directory in {CACHE_VARIABLE}"))?;
    Ok(cache.join("brainstorm-agent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(variables: &[(&str, &str)]) -> Result<PathBuf> {
        cache_from(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    }

    #[test]
    fn the_root_has_the_workspace_manifest() {
        let manifest = std::fs::read_to_string(root().unwrap().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn the_most_specific_variable_names_the_cache() {
        let home = ("HOME", "/home/a");
        assert_eq!(cache(&[home]).unwrap(), Path::new("/home/a/.cache/brainstorm-agent"));
        let xdg = ("XDG_CACHE_HOME", "/c");
        assert_eq!(cache(&[home, xdg]).unwrap(), Path::new("/c/brainstorm-agent"));
        assert_eq!(cache(&[home, xdg, (CACHE_VARIABLE, "/own")]).unwrap(), Path::new("/own"));
        assert_eq!(
            cache(&[home, ("XDG_CACHE_HOME", "relative")]).unwrap(),
            Path::new("/home/a/.cache/brainstorm-agent")
        );
        assert!(cache(&[]).unwrap_err().to_string().contains(CACHE_VARIABLE));
    }

    #[test]
    fn a_build_directory_elsewhere_is_respected() {
        let root = Path::new("/w");
        assert_eq!(target_from(root, None), Path::new("/w/target"));
        assert_eq!(target_from(root, Some("/t".into())), Path::new("/t"));
        assert_eq!(target_from(root, Some(OsString::new())), Path::new("/w/target"));
    }
}
