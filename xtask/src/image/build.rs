//! From inputs to a complete image directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use guest::manifest::{Artifact, ImageManifest, Input, SCHEMA_VERSION};

use super::digest::{self, Inputs};
use super::flavour::Flavour;
use super::kernel::{self, GuestKernel};
use super::rootfs::{self, Parts};
use super::{ext4, guest_program, pack, process};
use crate::{packages, progress, workspace};

const BUSYBOX: &str = "/bin/busybox";
const BUSYBOX_PACKAGE: &str = "busybox-static";
/// vsock port of the guest program, which is also its own default.
const GUEST_PORT: u32 = 52_000;
/// What the guest kernel is told. The machine adds its devices, the sandbox what it wants of the
/// guest program. README.md of kernel-config/ explains each part.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rootfstype=ext4 \
    rootflags=noinit_itable,no_prefetch_block_bitmaps rw init=/sbin/init tsc=reliable noreplace-smp \
    percpu_alloc=page rcupdate.rcu_expedited=1 swiotlb=noforce";

/// Names of the files in an image directory.
const KERNEL: &str = "vmlinux";
const ROOTFS: &str = "rootfs.ext4";
const MANIFEST: &str = "manifest.json";

/// What was done and what is there now.
#[derive(Debug)]
pub struct Outcome {
    pub directory: PathBuf,
    pub manifest: ImageManifest,
    /// Whether anything had to be built.
    pub changed: bool,
}

/// Brings the image in `directory` up to date. With `force` even the kernel is built again.
pub fn bring_up_to_date(directory: &Path, flavour: Flavour, force: bool) -> Result<Outcome> {
    let needed = [kernel::PACKAGES, ext4::PACKAGES, &[BUSYBOX_PACKAGE]].concat();
    packages::ensure(&needed)?;
    let kernels = workspace::cache_dir()?.join("kernel");
    fs::create_dir_all(&kernels).with_context(|| format!("creating {}", kernels.display()))?;
    let _lock = lock(&kernels.join("lock"))?;

    let kernel = GuestKernel::find(&kernels)?;
    let disk = DiskParts::collect(flavour)?;
    let mut inputs = kernel.inputs().clone();
    inputs.extend(disk.inputs()?);
    inputs.insert("cmdline".into(), digest::input(CMDLINE.as_bytes(), None));
    // It is packed behind the cache, so that a change there builds no kernel anew.
    let packing = include_str!("pack.rs");
    inputs.insert("kernel-packing".into(), digest::input(packing.as_bytes(), None));
    let input_digest = digest::of_inputs(&inputs);
    if !force && let Some(manifest) = current(directory, &input_digest) {
        return Ok(Outcome { directory: directory.to_owned(), manifest, changed: false });
    }

    let vmlinux = kernel.vmlinux(force)?;
    let step = progress::step("Building the root file system and the manifest");
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix("build-")
        .tempdir_in(directory)
        .context("creating a scratch directory")?;
    let rootfs = scratch.path().join(ROOTFS);
    ext4::write(&rootfs::tree(&disk.parts())?, &rootfs, scratch.path())?;
    let packed = scratch.path().join(KERNEL);
    fs::read(&vmlinux)
        .with_context(|| format!("reading {}", vmlinux.display()))
        .and_then(|elf| pack::pack(&elf))
        .and_then(|bytes| Ok(fs::write(&packed, bytes)?))
        .with_context(|| format!("packing {}", vmlinux.display()))?;

    let manifest = ImageManifest {
        schema_version: SCHEMA_VERSION,
        input_digest,
        artifacts: BTreeMap::from([
            (KERNEL.to_owned(), artifact(&packed)?),
            (ROOTFS.to_owned(), artifact(&rootfs)?),
        ]),
        inputs,
        kernel_cmdline: CMDLINE.into(),
        guest_port: GUEST_PORT,
        tools: rootfs::tools(&disk.registry)?,
        versions: BTreeMap::from([
            ("kernel".to_owned(), kernel.version().to_owned()),
            ("busybox".to_owned(), disk.busybox_version.clone()),
            ("guest".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]),
    };
    install(&manifest, scratch.path(), directory)?;
    step.done();
    Ok(Outcome { directory: directory.to_owned(), manifest, changed: true })
}

/// What goes on the disk.
struct DiskParts {
    guest_init: Vec<u8>,
    busybox: Vec<u8>,
    busybox_list: String,
    busybox_version: String,
    registry: String,
    programs: Vec<(&'static str, Vec<u8>)>,
}

impl DiskParts {
    fn collect(flavour: Flavour) -> Result<Self> {
        Ok(Self {
            guest_init: guest_program::build(guest_program::GUEST_INIT)?,
            busybox: fs::read(BUSYBOX).with_context(|| format!("reading {BUSYBOX}"))?,
            busybox_list: process::run(Command::new(BUSYBOX).arg("--list"))?.stdout,
            busybox_version: packages::version(BUSYBOX_PACKAGE)?,
            registry: flavour.registry()?,
            programs: flavour.programs()?,
        })
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            guest_init: &self.guest_init,
            busybox: &self.busybox,
            busybox_list: &self.busybox_list,
            registry: &self.registry,
            programs: &self.programs,
        }
    }

    fn inputs(&self) -> Result<Inputs> {
        let version = |package: &str| packages::version(package).map(Some);
        let e2fsprogs = packages::version("e2fsprogs")?;
        let named: [(&str, Input); 5] = [
            ("guest-init", digest::input(&self.guest_init, None)),
            ("busybox", digest::input(&self.busybox, version(BUSYBOX_PACKAGE)?)),
            ("tools.json", digest::input(self.registry.as_bytes(), None)),
            ("e2fsprogs", digest::input(e2fsprogs.as_bytes(), Some(e2fsprogs.clone()))),
            ("rootfs-recipe", digest::input(rootfs_recipe().as_bytes(), None)),
        ];
        let programs =
            self.programs.iter().map(|(path, bytes)| (*path, digest::input(bytes, None)));
        Ok(named.into_iter().chain(programs).map(|(name, i)| (name.to_owned(), i)).collect())
    }
}

/// The sources that decide what the disk looks like stand for themselves.
fn rootfs_recipe() -> String {
    [
        include_str!("build.rs"),
        include_str!("rootfs.rs"),
        include_str!("tree.rs"),
        include_str!("ext4.rs"),
        include_str!("samples/sample.txt"),
        include_str!("samples/sample.json"),
    ]
    .join("\0")
}

/// The image in `directory`, if it was built from these inputs and nothing happened to it.
fn current(directory: &Path, input_digest: &str) -> Option<ImageManifest> {
    let text = fs::read_to_string(directory.join(MANIFEST)).ok()?;
    let manifest = ImageManifest::parse(&text).ok()?;
    let intact = [KERNEL, ROOTFS].iter().all(|name| {
        let found = artifact(&directory.join(name)).ok();
        found.is_some() && found.as_ref() == manifest.artifacts.get(*name)
    });
    (intact && manifest.input_digest == input_digest).then_some(manifest)
}

/// Moves finished files into place. While they do not fit together there is no manifest.
fn install(manifest: &ImageManifest, scratch: &Path, directory: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest).context("writing the manifest")?;
    fs::write(scratch.join(MANIFEST), text + "\n").context("writing the manifest")?;
    let _ = fs::remove_file(directory.join(MANIFEST));
    for name in [KERNEL, ROOTFS, MANIFEST] {
        fs::rename(scratch.join(name), directory.join(name))
            .with_context(|| format!("moving {name} to {}", directory.display()))?;
    }
    Ok(())
}

fn artifact(path: &Path) -> Result<Artifact> {
    let (sha256, bytes) = digest::of_file(path)?;
    Ok(Artifact { sha256, bytes })
}

/// One image build at a time: held until the file is dropped.
fn lock(path: &Path) -> Result<File> {
    let open = || {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        if file.try_lock().is_err() {
            eprintln!("Waiting for another image build to end ...");
            file.lock()?;
        }
        std::io::Result::Ok(file)
    };
    open().with_context(|| format!("locking {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(directory: &Path) -> ImageManifest {
        let scratch = tempfile::tempdir_in(directory).unwrap();
        let mut artifacts = BTreeMap::new();
        for (name, content) in [(KERNEL, "kernel"), (ROOTFS, "disk")] {
            let path = scratch.path().join(name);
            fs::write(&path, content).unwrap();
            artifacts.insert(name.to_owned(), artifact(&path).unwrap());
        }
        let manifest = ImageManifest {
            schema_version: SCHEMA_VERSION,
            input_digest: digest::of_bytes(b"inputs"),
            artifacts,
            inputs: Inputs::new(),
            kernel_cmdline: CMDLINE.into(),
            guest_port: GUEST_PORT,
            tools: Vec::new(),
            versions: BTreeMap::new(),
        };
        install(&manifest, scratch.path(), directory).unwrap();
        manifest
    }

    #[test]
    fn an_intact_image_of_the_same_inputs_is_current() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = image(directory.path());
        assert_eq!(current(directory.path(), &manifest.input_digest), Some(manifest.clone()));
        assert_eq!(current(directory.path(), &digest::of_bytes(b"other inputs")), None);
        let kernel = directory.path().join(KERNEL);
        assert_eq!(manifest.artifacts[KERNEL].sha256, digest::of_bytes(b"kernel"));
        fs::write(&kernel, "kernal").unwrap();
        assert_eq!(current(directory.path(), &manifest.input_digest), None);
        fs::remove_file(&kernel).unwrap();
        assert_eq!(current(directory.path(), &manifest.input_digest), None);
    }

    #[test]
    fn a_damaged_manifest_is_not_current() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = image(directory.path());
        fs::write(directory.path().join(MANIFEST), "{").unwrap();
        assert_eq!(current(directory.path(), &manifest.input_digest), None);
    }

    #[test]
    fn the_command_line_is_one_line_of_single_spaces() {
        assert!(!CMDLINE.contains("  ") && !CMDLINE.contains('\n'), "{CMDLINE:?}");
    }
}
