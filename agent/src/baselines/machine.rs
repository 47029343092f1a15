//! Restoring a machine from a snapshot, and measuring it.

use std::path::Path;
use std::sync::Arc;

use guest::evidence::format_sha256;
use vmm::snapshot_file::Info;

use super::record::{BaselineRecord, VERSION, check};
use super::start::StartError;
use protocol::Timestamp;
use sandbox::{
    IncidentHandler, KvmConfig, KvmImage, KvmSandbox, Resets, Sandbox, SandboxError, SandboxSpec,
};

/// Restores a machine from a snapshot, lets its baseline be measured, and puts it through a first
/// verified reset. Gives what was measured, bound to what the snapshot is made of. `guard` is told
/// when the machine is not what it has to be.
pub fn restore(
    spec: &SandboxSpec,
    config: &KvmConfig,
    snapshot: &Path,
    guard: Option<Arc<dyn IncidentHandler>>,
) -> Result<(KvmSandbox, BaselineRecord), StartError> {
    let spec = spec.clone().with_resets(Resets::Verified);
    let sandbox = KvmSandbox::from_snapshot(spec, config.clone(), snapshot)?;
    if let Some(guard) = guard {
        sandbox.set_incident_handler(guard);
    }
    sandbox.boot()?;
    let record = measured(&sandbox, snapshot)?;
    let reset = sandbox.reset_and_verify()?;
    match reset.verification.failure() {
        None => Ok((sandbox, record)),
        Some(reason) => Err(StartError::NotAsInstalled(reason)),
    }
}

/// [`restore`] from what is installed, refusing everything that differs from it.
pub fn restore_installed(
    spec: &SandboxSpec,
    config: &KvmConfig,
    installed: &BaselineRecord,
    guard: Option<Arc<dyn IncidentHandler>>,
) -> Result<KvmSandbox, StartError> {
    same_settings(spec, config, installed)?;
    let (sandbox, found) = restore(spec, config, &installed.snapshot, guard)?;
    check(installed, &found)?;
    Ok(sandbox)
}

impl From<SandboxError> for StartError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::SnapshotChanged { .. }
            | SandboxError::NotGolden { .. }
            | SandboxError::ResetFailed { .. } => Self::NotAsInstalled(error.to_string()),
            error => Self::Machine(error.to_string()),
        }
    }
}

/// What is known before anything is restored, so that a change of settings is named as such.
fn same_settings(
    spec: &SandboxSpec,
    config: &KvmConfig,
    installed: &BaselineRecord,
) -> Result<(), StartError> {
    let image =
        KvmImage::open(&spec.image).map_err(|error| StartError::Machine(error.to_string()))?;
    let rootfs = image.rootfs().sha256().map_err(|e| StartError::Machine(e.to_string()))?;
    let found = BaselineRecord {
        // All crates of this program have one version.
        vmm_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_sha256: format_sha256(&image.kernel().sha256()),
        rootfs_sha256: format_sha256(&rootfs),
        cmdline: config.cmdline(spec, &image),
        memory_mib: spec.memory_mib,
        vcpus: spec.vcpus,
        ..installed.clone()
    };
    Ok(check(installed, &found)?)
}

fn measured(sandbox: &KvmSandbox, snapshot: &Path) -> Result<BaselineRecord, StartError> {
    let failed = |what: &str| StartError::Machine(what.to_owned());
    let info = Info::read(snapshot).map_err(|error| StartError::Machine(error.to_string()))?;
    let baseline = sandbox.baseline().ok_or_else(|| failed("no baseline was measured"))?;
    let golden_hash = format_sha256(&baseline.golden_hash());
    // The file's own list has bare digits.
    let sha256 = |digits: &str| format!("sha256:{digits}");
    if sha256(&info.golden_hash) != golden_hash {
        let reason = "the snapshot was replaced while it was read".to_owned();
        return Err(StartError::NotAsInstalled(reason));
    }
    Ok(BaselineRecord {
        version: VERSION,
        measured_at: Timestamp::now(),
        snapshot: snapshot.to_path_buf(),
        vmm_version: info.vmm_version,
        kernel_sha256: sha256(&info.kernel_sha256),
        rootfs_sha256: sha256(&info.rootfs_sha256.unwrap_or_default()),
        cmdline: info.cmdline,
        memory_mib: info.memory_mib,
        vcpus: info.vcpus,
        cpu_template: sha256(&info.cpuid_sha256),
        disk_bytes: info.disk_bytes,
        golden_hash,
        fs_hash: format_sha256(&baseline.disk_root()),
        open_fd_count: baseline.descriptors(),
        expected_vmm_api_state: super::record::RUNNING.to_owned(),
    })
}
