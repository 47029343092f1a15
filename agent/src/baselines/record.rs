//! One set of baselines, and what it is bound to.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use protocol::Timestamp;
use protocol::shape::{bytes_of_hex, hex_of_bytes};
use sandbox::verify::BLOCK_BYTES;

/// Version of the form.
pub const VERSION: u32 = 1;
/// State of a machine that can be used.
pub const RUNNING: &str = "running";

/// What was measured, and on what. All hashes are `sha256:` and 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineRecord {
    /// [`VERSION`].
    pub version: u32,
    /// When it was measured.
    pub measured_at: Timestamp,
    /// The snapshot the machine was restored from.
    pub snapshot: PathBuf,
    /// Version of the virtual machine monitor.
    pub vmm_version: String,
    /// Hash of the kernel image.
    pub kernel_sha256: String,
    /// Hash of the root file system's image.
    pub rootfs_sha256: String,
    /// Kernel command line, without the devices that the machine appends.
    pub cmdline: String,
    /// RAM, in MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Hash of what CPUID tells the guest.
    pub cpu_template: String,
    /// Size of the disk, in bytes.
    pub disk_bytes: u64,
    /// Hash of the golden state.
    pub golden_hash: String,
    /// Hash of the disk as the guest reads it.
    pub fs_hash: String,
    /// Open descriptors of the guest, sockets left out.
    pub open_fd_count: i64,
    /// What KVM says of the machine: `running`.
    pub expected_vmm_api_state: String,
}

/// Why a record is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} is {problem}")]
pub struct Incomplete {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// A field that is not as it was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The field of [`BaselineRecord`].
    pub field: &'static str,
    /// As it was installed.
    pub installed: String,
    /// As it is.
    pub found: String,
}

/// What is found is not what was installed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Mismatch {
    /// Every field that differs.
    pub fields: Vec<Difference>,
}

impl Mismatch {
    /// Only what is measured differs: no upgrade and no change of settings explains that.
    pub fn is_measured(&self) -> bool {
        const MEASURED: [&str; 4] =
            ["golden_hash", "fs_hash", "open_fd_count", "expected_vmm_api_state"];
        self.fields.iter().all(|difference| MEASURED.contains(&difference.field))
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not what was installed:")?;
        for Difference { field, installed, found } in &self.fields {
            write!(f, " {field} was {installed} and is {found};")?;
        }
        f.write_str(
            " after an upgrade or a change of settings run `brainstorm-agent install` again. If \
             you changed nothing, another did: look for tampering before you do",
        )
    }
}

impl BaselineRecord {
    /// Whether it can tell a good machine from a bad one: no field is empty, and no hash is that of
    /// nothing.
    pub fn validate(&self) -> Result<(), Incomplete> {
        let wrong = |field, problem| Err(Incomplete { field, problem });
        if self.version != VERSION {
            return wrong("version", "not one that this agent knows: install again");
        }
        for (field, hash) in [
            ("kernel_sha256", &self.kernel_sha256),
            ("rootfs_sha256", &self.rootfs_sha256),
            ("cpu_template", &self.cpu_template),
            ("golden_hash", &self.golden_hash),
            ("fs_hash", &self.fs_hash),
        ] {
            if let Some(problem) = trivial(hash, self.disk_bytes) {
                return wrong(field, problem);
            }
        }
        for (field, empty) in [
            ("snapshot", self.snapshot.as_os_str().is_empty()),
            ("vmm_version", self.vmm_version.is_empty()),
            ("cmdline", self.cmdline.trim().is_empty()),
            ("memory_mib", self.memory_mib == 0),
            ("vcpus", self.vcpus == 0),
            ("disk_bytes", self.disk_bytes == 0),
        ] {
            if empty {
                return wrong(field, "empty");
            }
        }
        if self.open_fd_count < 1 {
            return wrong("open_fd_count", "not that of a guest that answers");
        }
        if self.expected_vmm_api_state != RUNNING {
            return wrong("expected_vmm_api_state", "not `running`");
        }
        Ok(())
    }
}

/// Compares what is found at a start with what was installed. When it was measured, and where the
/// snapshot lies, does not matter.
pub fn check(installed: &BaselineRecord, found: &BaselineRecord) -> Result<(), Mismatch> {
    let text = |record: &BaselineRecord| {
        [
            ("vmm_version", record.vmm_version.clone()),
            ("kernel_sha256", record.kernel_sha256.clone()),
            ("rootfs_sha256", record.rootfs_sha256.clone()),
            ("cmdline", record.cmdline.clone()),
            ("memory_mib", record.memory_mib.to_string()),
            ("vcpus", record.vcpus.to_string()),
            ("cpu_template", record.cpu_template.clone()),
            ("disk_bytes", record.disk_bytes.to_string()),
            ("golden_hash", record.golden_hash.clone()),
            ("fs_hash", record.fs_hash.clone()),
            ("open_fd_count", record.open_fd_count.to_string()),
            ("expected_vmm_api_state", record.expected_vmm_api_state.clone()),
        ]
    };
    let fields: Vec<Difference> = text(installed)
        .into_iter()
        .zip(text(found))
        .filter(|((_, installed), (_, found))| installed != found)
        .map(|((field, installed), (_, found))| Difference { field, installed, found })
        .collect();
    if fields.is_empty() { Ok(()) } else { Err(Mismatch { fields }) }
}

/// What is wrong with a hash that anything could have.
fn trivial(text: &str, disk_bytes: u64) -> Option<&'static str> {
    let hash: Option<[u8; 32]> = text
        .strip_prefix("sha256:")
        .and_then(bytes_of_hex)
        .filter(|hash| text.ends_with(&hex_of_bytes(hash)));
    let Some(hash) = hash else { return Some("no hash") };
    let of = |bytes: &[u8]| <[u8; 32]>::from(Sha256::digest(bytes));
    if hash == [0; 32] {
        Some("nothing but zeros")
    } else if hash == of(b"") {
        Some("the hash of nothing")
    } else if hash == of(b"\n") {
        Some("the hash of an empty line")
    } else if hash == of(&[0; 32]) || hash == tree_of_zeros(disk_bytes.div_ceil(BLOCK_BYTES as u64))
    {
        Some("the hash of zeros")
    } else {
        None
    }
}

/// The root of the hash tree over so many blocks of zeros (RFC 6962 2.1).
fn tree_of_zeros(blocks: u64) -> [u8; 32] {
    let node = |left: [u8; 32], right: [u8; 32]| -> [u8; 32] {
        Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
    };
    if blocks == 0 {
        return Sha256::digest(b"").into();
    }
    let leaf = Sha256::new().chain_update([0]).chain_update([0; BLOCK_BYTES]).finalize();
    let mut full: [u8; 32] = leaf.into();
    // The tree is one of full trees, the largest on the left: join them from the right.
    let mut root: Option<[u8; 32]> = None;
    for level in 0..u64::BITS {
        if blocks >> level & 1 == 1 {
            root = Some(root.map_or(full, |right| node(full, right)));
        }
        full = node(full, full);
    }
    root.unwrap_or(full)
}

#[cfg(test)]
pub(in crate::baselines) mod tests;
