//! Looking at the host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vmm::KvmError;

use super::{Cgroup, CgroupVersion, Facts, Image, Kvm, parse};
use sandbox::{KvmImage, SandboxSpec};

/// Looks at this host with the eyes of `spec`.
pub fn gather(spec: &SandboxSpec) -> Facts {
    let cpuinfo = read("/proc/cpuinfo");
    Facts {
        kvm: kvm(),
        virtualisation: parse::virtualisation(&cpuinfo),
        is_virtual: parse::has_flag(&cpuinfo, "hypervisor"),
        available_mib: parse::available_mib(&read("/proc/meminfo")),
        machine_mib: u64::from(spec.memory_mib),
        cgroup: cgroup(),
        confinement: crate::confine::possible(),
        image: image(spec),
    }
}

/// A file that cannot be read tells nothing, which the parsers understand.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn kvm() -> Kvm {
    match vmm::probe() {
        Ok(probe) => Kvm::Usable(probe),
        Err(KvmError::Missing) => Kvm::Missing,
        Err(KvmError::Permission) => Kvm::Forbidden { group: owning_group() },
        Err(e) => Kvm::Broken(e.to_string()),
    }
}

fn owning_group() -> Option<String> {
    const GROUP_READ_WRITE: u32 = 0o060;
    let device = fs::metadata("/dev/kvm").ok()?;
    // Joining the owning group helps only when the group may use the device.
    let helps = device.mode() & GROUP_READ_WRITE == GROUP_READ_WRITE;
    helps.then(|| parse::group_name(&read("/etc/group"), device.gid()))?
}

fn cgroup() -> Cgroup {
    let own = read("/proc/self/cgroup");
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        let path = parse::unified_path(&own).unwrap_or("/");
        let limit = tightest_limit(root, path, "memory.max");
        return Cgroup { version: CgroupVersion::V2, memory_limit_mib: limit };
    }
    match parse::controller_path(&own, "memory") {
        Some(path) => {
            let limit = tightest_limit(&root.join("memory"), path, "memory.limit_in_bytes");
            Cgroup { version: CgroupVersion::V1, memory_limit_mib: limit }
        }
        None => Cgroup { version: CgroupVersion::None, memory_limit_mib: None },
    }
}

/// Limits of all levels apply: the smallest one counts.
fn tightest_limit(root: &Path, path: &str, file: &str) -> Option<u64> {
    let own = root.join(path.trim_start_matches('/'));
    own.ancestors()
        .take_while(|level| level.starts_with(root))
        .filter_map(|level| parse::limit_mib(&read(level.join(file))))
        .min()
}

fn image(spec: &SandboxSpec) -> Image {
    match KvmImage::open(&spec.image) {
        Ok(image) if image.is_verified() => Image::Verified { summary: image.summary() },
        Ok(image) => Image::Unverified { summary: image.summary() },
        Err(e) => {
            let (text, remedy) = (e.to_string(), e.remedy());
            // The remedy gets a line of its own.
            let finding = text.strip_suffix(remedy).unwrap_or(&text).trim_end_matches([':', ' ']);
            Image::Bad { finding: finding.to_owned(), remedy }
        }
    }
}
