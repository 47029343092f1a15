//! Builds the guest kernel once for each set of inputs and keeps it outside of the checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::digest::{self, Inputs};
use super::kernel_config::{self, Lost};
use super::process;
use super::source::{KernelSource, PINNED};
use crate::progress;

const FRAGMENT: &str = include_str!("../../../kernel-config/guest.config");
/// Raised where the code here builds something else from the same inputs.
const RECIPE: &str = "1";
/// What a kernel build would otherwise take from the clock and the machine.
const FIXED: &[(&str, &str)] = &[
    ("ARCH", "x86_64"),
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "bsm"),
    ("KBUILD_BUILD_HOST", "bsm"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
];
/// Variables with which a user's shell could change what make builds.
const FORBIDDEN: &[&str] = &[
    "ARCH",
    "CROSS_COMPILE",
    "GNUMAKEFLAGS",
    "KAFLAGS",
    "KBUILD_OUTPUT",
    "KCFLAGS",
    "KCONFIG_CONFIG",
    "KCPPFLAGS",
    "LLVM",
    "LOCALVERSION",
    "MAKEFLAGS",
];

/// Names of scratch directories start so.
const SCRATCH_PREFIX: &str = "build-";

/// Packages the build needs, apart from the source's.
pub const PACKAGES: &[&str] = &[
    "bc",
    "binutils",
    "bison",
    "flex",
    "gcc",
    "libc6-dev",
    "libelf-dev",
    "libssl-dev",
    "make",
    "xz-utils",
];

/// A kernel that may have to be built yet.
#[derive(Debug)]
pub struct GuestKernel {
    source: KernelSource,
    inputs: Inputs,
    cache: PathBuf,
}

impl GuestKernel {
    /// Looks at the inputs. `cache` is the directory that keeps kernels.
    pub fn find(cache: &Path) -> Result<Self> {
        let source = KernelSource::find()?;
        let mut inputs = Inputs::new();
        inputs.insert("kernel-source".into(), source.input.clone());
        inputs.insert("kernel-config".into(), digest::input(FRAGMENT.as_bytes(), None));
        inputs.insert("source.toml".into(), digest::input(PINNED.as_bytes(), None));
        for (name, program) in [("compiler", "gcc"), ("linker", "ld")] {
            let version = first_line_of_version(program)?;
            inputs.insert(name.into(), digest::input(version.as_bytes(), Some(version.clone())));
        }
        let recipe = digest::input(RECIPE.as_bytes(), Some(RECIPE.into()));
        inputs.insert("kernel-recipe".into(), recipe);
        Ok(Self { source, inputs, cache: cache.to_owned() })
    }

    /// What the kernel is made of.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Version of the source.
    pub fn version(&self) -> &str {
        self.source.input.version.as_deref().unwrap_or("unknown")
    }

    /// The built kernel, from the cache unless `force` is set or it is damaged there.
    pub fn vmlinux(&self, force: bool) -> Result<PathBuf> {
        let digest = digest::of_inputs(&self.inputs);
        let kept = Kept { directory: self.cache.join(digest.trim_start_matches("sha256:")) };
        if !force && kept.is_intact() {
            return Ok(kept.vmlinux());
        }
        fs::create_dir_all(&self.cache)
            .with_context(|| format!("creating {}", self.cache.display()))?;
        remove_leftovers(&self.cache);
        let step = progress::step(format!("Building kernel {} (minutes)", self.version()));
        let scratch = tempfile::Builder::new()
            .prefix(SCRATCH_PREFIX)
            .tempdir_in(&self.cache)
            .context("creating a scratch directory")?;
        let log = self.cache.join("build.log");
        let _ = fs::remove_file(&log);
        let vmlinux = build(&self.source, scratch.path(), &log)?;
        kept.keep(&vmlinux, scratch.path())?;
        step.done();
        Ok(kept.vmlinux())
    }
}

/// A kernel in the cache, with its digest to tell damage.
struct Kept {
    directory: PathBuf,
}

impl Kept {
    fn vmlinux(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    fn is_intact(&self) -> bool {
        let expected = fs::read_to_string(self.directory.join("vmlinux.sha256"));
        let found = digest::of_file(&self.vmlinux());
        matches!((expected, found), (Ok(expected), Ok((found, _))) if expected.trim() == found)
    }

    /// Takes the kernel in, in place of a damaged one. Never half: the directory is renamed.
    fn keep(&self, vmlinux: &Path, scratch: &Path) -> Result<()> {
        let finished = scratch.join("finished");
        let write = || -> std::io::Result<()> {
            fs::create_dir(&finished)?;
            fs::rename(vmlinux, finished.join("vmlinux"))
        };
        write().context("collecting the kernel")?;
        let (sha256, _) = digest::of_file(&finished.join("vmlinux"))?;
        fs::write(finished.join("vmlinux.sha256"), format!("{sha256}\n"))
            .context("collecting the kernel")?;
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)
                .with_context(|| format!("removing {}", self.directory.display()))?;
        }
        fs::rename(&finished, &self.directory)
            .with_context(|| format!("moving the kernel to {}", self.directory.display()))
    }
}

/// Removes what interrupted builds left behind: gigabytes each. Callers hold the cache's lock, so
/// none of it is in use. What cannot be removed harms nothing.
fn remove_leftovers(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if entry.path().is_dir() && name.to_string_lossy().starts_with(SCRATCH_PREFIX) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Unpacks, configures and builds in `scratch`.
fn build(source: &KernelSource, scratch: &Path, log: &Path) -> Result<PathBuf> {
    let tree = scratch.join("linux");
    fs::create_dir(&tree).context("creating the source's directory")?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(&source.archive).arg("--strip-components=1");
    process::run_logged(tar.arg("--directory").arg(&tree), log)?;
    for change in &source.changes {
        change.apply(&tree)?;
    }
    configure(&tree, log)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    process::run_logged(make(&tree).arg(format!("--jobs={jobs}")).arg("vmlinux"), log)?;
    let vmlinux = scratch.join("vmlinux");
    let mut strip = Command::new("strip");
    strip.args(["--strip-all", "--remove-section=.comment", "-o"]).arg(&vmlinux);
    process::run_logged(strip.arg(tree.join("vmlinux")), log)?;
    Ok(vmlinux)
}

fn configure(tree: &Path, log: &Path) -> Result<()> {
    process::run_logged(make(tree).arg("tinyconfig"), log)?;
    let path = tree.join(".config");
    let tiny = fs::read_to_string(&path).context("reading the kernel's configuration")?;
    // Of several lines about one symbol, the last counts.
    fs::write(&path, format!("{tiny}\n{FRAGMENT}"))
        .context("writing the kernel's configuration")?;
    process::run_logged(make(tree).arg("olddefconfig"), log)?;
    let complete = fs::read_to_string(&path).context("reading the kernel's configuration")?;
    let lost = kernel_config::lost(FRAGMENT, &complete);
    if lost.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = lost
        .iter()
        .map(|Lost { wanted, found }| format!("  {wanted}   (is: {})", found.unwrap_or("nothing")))
        .collect();
    bail!(
        "kernel-config/guest.config asks for what this kernel's dependencies do not allow:\n{}",
        shown.join("\n")
    )
}

fn make(tree: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C").arg(tree).envs(FIXED.iter().copied());
    for variable in FORBIDDEN {
        make.env_remove(variable);
    }
    make
}

fn first_line_of_version(program: &str) -> Result<String> {
    let printed = process::run(Command::new(program).arg("--version").env("LC_ALL", "C"))?;
    let line = printed.stdout.lines().next();
    Ok(line.with_context(|| format!("{program} tells no version"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interrupted_builds_are_removed() {
        let cache = tempfile::tempdir().unwrap();
        for name in ["build-x1", "0123"] {
            fs::create_dir(cache.path().join(name)).unwrap();
            fs::write(cache.path().join(name).join("vmlinux"), "").unwrap();
        }
        fs::write(cache.path().join("build-log"), "").unwrap();
        remove_leftovers(cache.path());
        assert!(!cache.path().join("build-x1").exists());
        assert!(cache.path().join("0123/vmlinux").exists());
        assert!(cache.path().join("build-log").exists());
    }

    #[test]
    fn damage_in_the_cache_is_seen_and_mended() {
        let cache = tempfile::tempdir().unwrap();
        let kept = Kept { directory: cache.path().join("0123") };
        assert!(!kept.is_intact());
        let keep = |content: &str| {
            let scratch = tempfile::tempdir_in(cache.path()).unwrap();
            let built = scratch.path().join("vmlinux");
            fs::write(&built, content).unwrap();
            kept.keep(&built, scratch.path()).unwrap();
        };
        keep("kernel");
        assert!(kept.is_intact());
        fs::write(kept.vmlinux(), "kernal").unwrap();
        assert!(!kept.is_intact());
        keep("kernel");
        assert!(kept.is_intact());
        fs::remove_file(kept.directory.join("vmlinux.sha256")).unwrap();
        assert!(!kept.is_intact());
    }
}
