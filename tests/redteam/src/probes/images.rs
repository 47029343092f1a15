//! Machines that share an image share no writes, and an image that is not what it was is not used.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::scratch::Scratch;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict, search};
use brainstorm_agent::store::StateDir;
use sandbox::{ImageSource, KvmImage, KvmSandbox, Sandbox, SandboxSpec};

/// Machines share an image, and an attacker changes its files.
pub const PROBE: FnProbe = FnProbe {
    name: "stale-image",
    class: AttackerClass::A6,
    expectation: Expectation::ShouldFail,
    description: "Two machines of one image write to their disks; the image's files are changed, \
                  cut and exchanged before and while a machine is made of them; a second agent \
                  wants the same state directory",
    repeats: false,
    run,
};

const ROOTFS: &str = "rootfs.ext4";
const KERNEL: &str = "vmlinux";
const MANIFEST: &str = "manifest.json";

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let copy = ImageCopy::of(&testbed.plan().sandbox.image.dir)?;
    KvmImage::open(&copy.source()).map_err(|e| ProbeError::Control(e.to_string()))?;
    let (mut breaches, mut seen) = changes(&copy, testbed.plan().leaves_out("digests"))?;
    for (name, breach) in [
        ("two machines of one image", two_machines(testbed)?),
        ("exchanged under a machine", exchanged(testbed, &copy)?),
        ("a second agent", second_agent()?),
    ] {
        seen.push(json!({"change": name, "said": breach}));
        breaches.extend(breach.map(|breach| format!("{name}: {breach}")));
    }
    let held = format!("{} ways to share or change an image, each noticed or harmless", seen.len());
    Ok(Verdict::of(&breaches, held, json!({ "changes": seen })))
}

/// A copy of the attack image, which the probe may change.
struct ImageCopy(Scratch);

impl ImageCopy {
    fn of(original: &Path) -> Result<Self, ProbeError> {
        let scratch = Scratch::new()?;
        for name in [ROOTFS, KERNEL, MANIFEST] {
            fs::copy(original.join(name), scratch.path().join(name))?;
        }
        Ok(Self(scratch))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn source(&self) -> ImageSource {
        ImageSource::directory(self.0.path())
    }
}

/// A change of a file's bytes.
type ByteChange = fn(&mut Vec<u8>);

const CHANGES: &[(&str, &str, ByteChange)] = &[
    ("one bit of the disk", ROOTFS, |bytes| flip(bytes)),
    ("disk cut", ROOTFS, |bytes| bytes.truncate(bytes.len().saturating_sub(4096))),
    ("disk grown", ROOTFS, |bytes| bytes.resize(bytes.len() + 4096, 0)),
    ("one bit of the kernel", KERNEL, |bytes| flip(bytes)),
];

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
}

/// Changes files between two starts. A host without digests takes them as they are.
fn changes(
    copy: &ImageCopy,
    without_digests: bool,
) -> Result<(Vec<String>, Vec<Value>), ProbeError> {
    let (mut breaches, mut seen) = (Vec::new(), Vec::new());
    for (name, file, change) in CHANGES {
        let path = copy.file(file);
        let before = fs::read(&path)?;
        let mut after = before.clone();
        change(&mut after);
        fs::write(&path, after)?;
        let source = if without_digests {
            let (kernel, rootfs) = (Some(copy.file(KERNEL)), Some(copy.file(ROOTFS)));
            ImageSource { kernel, rootfs, ..copy.source() }
        } else {
            copy.source()
        };
        let said = KvmImage::open(&source).err().map(|error| error.to_string());
        fs::write(&path, before)?;
        if said.is_none() {
            breaches.push(format!("{name}: it is taken for what it was"));
        }
        seen.push(json!({"change": name, "said": said}));
    }
    Ok((breaches, seen))
}

/// What one machine writes is on its disk, and not on the other's.
fn two_machines(testbed: &Testbed) -> Result<Option<String>, ProbeError> {
    let first = testbed.kvm(Guest::Shipped)?;
    let second = testbed.fork()?;
    second.boot().map_err(ProbeError::at("booting beside another"))?;
    let marker = search::marker();
    let params = json!({"host_file": "/nowhere", "secret": marker});
    testbed.attack(&*first, "attack_files", params)?;
    let disk_bytes = first.golden().and_then(|golden| golden.disk_bytes()).unwrap_or_default();
    let has_it = |sandbox: &KvmSandbox| {
        testbed.held(sandbox, |machine| {
            Ok(search::disk(machine, disk_bytes, &[&marker])?.contains(&true))
        })
    };
    if !has_it(&first)? {
        return Err(ProbeError::Control("a machine's own mark is not on its disk".into()));
    }
    let found = has_it(&second)?;
    second.shutdown();
    Ok(found.then(|| "what one writes is on the other's disk".to_owned()))
}

/// A machine goes on with the image that was checked, whatever becomes of its files.
fn exchanged(testbed: &Testbed, copy: &ImageCopy) -> Result<Option<String>, ProbeError> {
    let spec = SandboxSpec { image: copy.source(), ..testbed.spec() };
    let sandbox = KvmSandbox::new(spec, testbed.kvm_config()?.clone());
    sandbox.boot().map_err(ProbeError::at("booting a copy of the image"))?;
    let path = copy.file(ROOTFS);
    let honest = fs::read(&path)?;
    let marker = search::marker();
    // In place, as an attacker would who knows that the file is open.
    fs::write(&path, marker.as_bytes().repeat(honest.len() / marker.len()))?;
    let wrong = testbed.next_command(&sandbox).or_else(|| testbed.recover(&sandbox));
    let on_disk = testbed.held(&sandbox, |machine| {
        Ok(search::disk(machine, honest.len() as u64, &[&marker])?.contains(&true))
    })?;
    sandbox.shutdown();
    fs::write(&path, honest)?;
    Ok(wrong.or_else(|| on_disk.then(|| "the machine reads the exchanged file".to_owned())))
}

/// A state directory is one agent's.
fn second_agent() -> Result<Option<String>, ProbeError> {
    let scratch = Scratch::new()?;
    let state = scratch.path().join("state");
    let first = StateDir::open(&state).map_err(|e| ProbeError::Control(e.to_string()))?;
    let second = StateDir::open(&state).is_ok();
    drop(first);
    StateDir::open(&state).map_err(|e| ProbeError::Control(e.to_string()))?;
    Ok(second.then(|| "both have its state directory".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_one_agents() {
        assert_eq!(second_agent().unwrap(), None);
    }

    #[test]
    fn an_image_that_is_not_there_is_no_verdict() {
        assert!(ImageCopy::of(Path::new("/nonexistent")).is_err());
    }
}
