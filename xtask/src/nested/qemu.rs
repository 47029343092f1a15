//! Which QEMU emulates the nested machine.
//!
//! QEMU 7.2, which is Debian 12's, now and then delivers an interrupt in the moment between the
//! end of a guest and the host's own state being back. Then the guest goes on at an address of the
//! hypervisor and is silent, or the hypervisor's kernel crashes: under load, every few hundred
//! commands. QEMU 10 loses guests far less often, and on one processor hardly ever (see
//! [`TEST_VCPUS`](super::TEST_VCPUS)). Where the installed one is older, a newer one from the backports of
//! the same release is unpacked into the cache; nothing on the system changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::output_of;
use crate::{progress, workspace};

const PROGRAM: &str = "qemu-system-x86_64";
/// The oldest major version that is not replaced.
const WANTED: u32 = 10;
/// The program, and what it reads when a machine starts. The libraries it needs are those of the
/// release's own QEMU.
const PACKAGES: &[&str] = &["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];
/// Where the packages keep firmware.
const FIRMWARE: &[&str] = &["usr/share/qemu", "usr/share/seabios"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Uses this program, whatever its version.
const OVERRIDE: &str = "BSM_QEMU";

/// A QEMU that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// Directories with firmware; none where the program knows its own.
    pub firmware: Vec<PathBuf>,
}

impl Qemu {
    /// The installed one if it is new enough, else one from the cache, which is filled first.
    /// Where that cannot be done, the installed one with a warning: it works, if not always.
    pub fn prepare() -> Result<Self> {
        if let Some(program) = std::env::var_os(OVERRIDE).filter(|program| !program.is_empty()) {
            return Ok(Self { program: program.into(), firmware: Vec::new() });
        }
        let installed = Self { program: PROGRAM.into(), firmware: Vec::new() };
        let version = installed.major_version()?;
        if version >= WANTED {
            return Ok(installed);
        }
        match Self::from_backports() {
            Ok(newer) => Ok(newer),
            Err(error) => {
                eprintln!(
                    "Warning: no newer QEMU could be had ({error:#}). Version {version} is used, in \
                     which a guest is lost now and then under load. {OVERRIDE} can name another."
                );
                Ok(installed)
            }
        }
    }

    fn from_backports() -> Result<Self> {
        let archive = PackageArchive::of_this_system()?;
        let parent = workspace::cache_dir()?.join("nested");
        let tree = parent.join(format!("qemu-{WANTED}-{}-backports", archive.codename));
        if !tree.is_dir() {
            fs::create_dir_all(&parent)
                .with_context(|| format!("creating {}", parent.display()))?;
            let step = progress::step(format!("Unpacking QEMU of {}-backports", archive.codename));
            let scratch = tempfile::tempdir_in(&parent).context("creating a scratch directory")?;
            let unpacked = archive.unpack(scratch.path())?;
            let version = Self::in_tree(&unpacked).major_version()?;
            ensure!(version >= WANTED, "the backports have version {version} only");
            match fs::rename(&unpacked, &tree) {
                // Another process unpacked the same at the same time.
                Err(_) if tree.is_dir() => {}
                result => result.context("moving QEMU into place")?,
            }
            step.done();
        }
        Ok(Self::in_tree(&tree))
    }

    fn in_tree(tree: &Path) -> Self {
        Self {
            program: tree.join("usr/bin").join(PROGRAM),
            firmware: FIRMWARE.iter().map(|directory| tree.join(directory)).collect(),
        }
    }

    fn major_version(&self) -> Result<u32> {
        let text = output_of(Command::new(&self.program).arg("--version"))?;
        major_version(&text).with_context(|| format!("{PROGRAM} does not say its version: {text}"))
    }
}

/// First number of "QEMU emulator version 10.0.2 (Debian ...)".
fn major_version(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// The package archive of this system's release.
#[derive(Debug, PartialEq, Eq)]
struct PackageArchive {
    address: String,
    codename: String,
}

impl PackageArchive {
    fn of_this_system() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let listing = output_of(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE)",
        ]))?;
        Self::from(&release, &listing).context(
            "the package lists name no archive of this system's own release; run apt-get update",
        )
    }

    fn from(release: &str, listing: &str) -> Option<Self> {
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?
            .trim_matches('"');
        let address = listing.lines().find_map(|line| {
            let (address, release) = line.split_once(' ')?;
            (release == codename).then_some(address)
        })?;
        Some(Self { address: address.to_owned(), codename: codename.to_owned() })
    }

    /// Downloads with package lists of our own, so that neither the system's lists nor its choice
    /// of packages change, and the caller need not be root.
    fn unpack(&self, scratch: &Path) -> Result<PathBuf> {
        let suite = format!("{}-backports", self.codename);
        let [lists, downloads, tree] =
            ["lists", "downloads", "tree"].map(|name| scratch.join(name));
        for directory in [&lists.join("partial"), &downloads, &tree] {
            fs::create_dir_all(directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        let sources = scratch.join("sources.list");
        let signed_by = if Path::new(KEYRING).exists() {
            format!(" [signed-by={KEYRING}]")
        } else {
            String::new()
        };
        fs::write(&sources, format!("deb{signed_by} {} {suite} main\n", self.address))
            .with_context(|| format!("writing {}", sources.display()))?;
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command.current_dir(&downloads);
            for option in [
                option("Dir::Etc::SourceList", &sources),
                option("Dir::Etc::SourceParts", Path::new("/dev/null")),
                option("Dir::State::Lists", &lists),
                option("Dir::Cache", scratch),
                // The user apt switches to cannot write where only we can.
                "APT::Sandbox::User=root".to_owned(),
            ] {
                command.args(["-o", &option]);
            }
            output_of(command.args(arguments))
        };
        apt(&["update"])?;
        for package in PACKAGES {
            apt(&["download", &format!("{package}/{suite}")])?;
        }
        for entry in fs::read_dir(&downloads).context("listing downloads")? {
            let package = entry.context("listing downloads")?.path();
            output_of(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tree))?;
        }
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "http://security.example/debian-security/ bookworm-security\n\
        http://archive.example/debian/ bookworm\nhttp://archive.example/debian/ bookworm-updates\n";

    #[test]
    fn versions_are_read() {
        let version = |text| major_version(text);
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\n"), Some(7));
        assert_eq!(version("QEMU emulator version 10.0.2\nCopyright"), Some(10));
        assert_eq!(version("QEMU emulator"), None);
    }

    #[test]
    fn the_archive_is_the_one_the_release_itself_comes_from() {
        let release = "NAME=Debian\nVERSION_CODENAME=bookworm\n";
        let archive = PackageArchive::from(release, LISTING).unwrap();
        assert_eq!(archive.address, "http://archive.example/debian/");
        assert_eq!(archive.codename, "bookworm");
        assert_eq!(PackageArchive::from("VERSION_CODENAME=trixie\n", LISTING), None);
        assert_eq!(PackageArchive::from("NAME=other\n", LISTING), None);
    }
}
