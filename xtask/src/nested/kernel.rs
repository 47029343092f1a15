//! The nested machine's kernel: Debian's generic one, downloaded and unpacked, never installed.
//!
//! The generic kernel rather than the smaller cloud one, because only it has 9p.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::modules::{self, KernelModule};
use super::{bzimage, output_of};

/// Package that always depends on the archive's newest kernel.
const META_PACKAGE: &str = "linux-image-amd64";
/// The series this was proven with. The archive replaces point releases, so no exact version.
const SERIES: &str = "6.1";

/// A kernel package as the archive offers it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelPackage {
    pub name: String,
    pub version: String,
    pub sha256: String,
}

/// What the machine needs of the kernel.
pub struct Kernel {
    pub vmlinux: Vec<u8>,
    pub modules: Vec<KernelModule>,
}

impl KernelPackage {
    /// Asks the package lists, after an update where they know no kernel.
    pub fn resolve() -> Result<Self> {
        Self::from_lists().or_else(|_| {
            update_lists()?;
            Self::from_lists()
        })
    }

    fn from_lists() -> Result<Self> {
        let meta = show(META_PACKAGE)?;
        let name = dependency(&meta)?;
        let stanza = show(&name)?;
        Ok(Self {
            version: field(&stanza, "Version")?.to_owned(),
            sha256: field(&stanza, "SHA256")?.to_owned(),
            name,
        })
    }

    /// Downloads the package into `scratch` and takes the kernel and its modules out of it.
    pub fn fetch(&self, scratch: &Path) -> Result<Kernel> {
        if self.download(scratch).is_err() {
            // The lists can name a file that the archive has replaced since.
            update_lists()?;
            self.download(scratch).with_context(|| {
                format!("the archive no longer has {} {}; run this again", self.name, self.version)
            })?;
        }
        let package = only_package(scratch)?;
        let tree = scratch.join("tree");
        output_of(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tree))?;
        let release = self.name.trim_start_matches("linux-image-");
        let image = tree.join("boot").join(format!("vmlinuz-{release}"));
        let image =
            fs::read(&image).with_context(|| format!("reading {} of the package", self.name))?;
        Ok(Kernel {
            vmlinux: bzimage::vmlinux(&image)?,
            modules: modules::load_order(&tree.join("lib/modules").join(release), modules::WANTED)?,
        })
    }

    fn download(&self, scratch: &Path) -> Result<()> {
        // The sandbox user apt switches to cannot write where only we can.
        output_of(
            Command::new("apt-get")
                .args(["-o", "APT::Sandbox::User=root", "download"])
                .arg(format!("{}={}", self.name, self.version))
                .current_dir(scratch),
        )
        .map(drop)
    }
}

fn update_lists() -> Result<()> {
    output_of(Command::new("apt-get").arg("update")).map(drop)
}

fn show(package: &str) -> Result<String> {
    output_of(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
}

/// The concrete kernel a meta package's stanza depends on.
fn dependency(meta: &str) -> Result<String> {
    let depends = field(meta, "Depends")?;
    let name = depends.split([',', ' ', '(']).next().unwrap_or_default();
    ensure!(
        name.starts_with(&format!("linux-image-{SERIES}.")),
        "{META_PACKAGE} of this system's archive is {name:?}, but the nested machine is proven \
         with series {SERIES} only: use Debian 12"
    );
    Ok(name.to_owned())
}

fn field<'a>(stanza: &'a str, key: &str) -> Result<&'a str> {
    stanza
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .map(str::trim)
        .with_context(|| format!("the package lists say no {key} for the kernel"))
}

fn only_package(directory: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(directory).context("listing downloads")? {
        let path = entry.context("listing downloads")?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    bail!("apt-get downloaded no package")
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = "Package: linux-image-amd64\nVersion: 6.1.192-2\n\
        Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n";

    #[test]
    fn concrete_kernel_is_found() {
        assert_eq!(dependency(META).unwrap(), "linux-image-6.1.0-56-amd64");
        assert_eq!(field(META, "Version").unwrap(), "6.1.192-2");
        assert!(field(META, "SHA256").is_err());
    }

    #[test]
    fn other_series_are_refused() {
        let error = dependency(&META.replace("6.1.", "6.12.")).unwrap_err();
        assert!(error.to_string().contains("6.12."), "{error}");
    }
}
