use guest::evidence::format_sha256;
use serde_json::json;

use super::*;

#[test]
fn every_error_ends_with_what_to_do() {
    let (artifact, path) = (Artifact::Kernel, PathBuf::from("p"));
    let io = || std::io::Error::from(ErrorKind::PermissionDenied);
    let text = || "x".to_owned();
    for error in [
        ImageError::Missing { artifact, path: path.clone() },
        ImageError::Read { artifact, path: path.clone(), source: io() },
        ImageError::Empty { artifact, path: path.clone() },
        ImageError::Truncated { artifact, path: path.clone(), needed: 2, found: 1 },
        ImageError::NotAKernel { path: path.clone(), detail: text() },
        ImageError::NotAFilesystem { path: path.clone() },
        ImageError::Disk { path: path.clone(), detail: text() },
        ImageError::Manifest { path: path.clone(), detail: text() },
        ImageError::Mismatch { artifact, path, expected: text(), actual: text() },
    ] {
        assert!(error.to_string().ends_with(error.remedy()), "{error}");
    }
}

/// A directory whose manifest lists these digests.
fn directory(kernel: [u8; 32], rootfs: [u8; 32]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let artifact = |digest| json!({"sha256": format_sha256(&digest), "bytes": 0});
    let manifest = json!({
        "schema_version": 1, "input_digest": "", "inputs": {},
        "artifacts": {"vmlinux": artifact(kernel), "rootfs.ext4": artifact(rootfs)},
        "kernel_cmdline": "", "guest_port": 1, "tools": [], "versions": {},
    });
    fs::write(directory.path().join("manifest.json"), manifest.to_string()).unwrap();
    directory
}

#[test]
fn a_part_is_vouched_for_by_its_own_digest_unless_it_is_replaced() {
    let directory = directory([1; 32], [2; 32]);
    let mut source = ImageSource::directory(directory.path());
    let manifest = source.manifest().unwrap();
    for (artifact, own, other) in
        [(Artifact::Kernel, [1; 32], [2; 32]), (Artifact::Rootfs, [2; 32], [1; 32])]
    {
        source.vouch(manifest.as_ref(), artifact, &own).unwrap();
        let error = source.vouch(manifest.as_ref(), artifact, &other).unwrap_err();
        assert!(matches!(error, ImageError::Mismatch { artifact: a, .. } if a == artifact));
        source.vouch(None, artifact, &other).unwrap();
    }
    source.rootfs = Some("/other".into());
    source.vouch(manifest.as_ref(), Artifact::Rootfs, &[9; 32]).unwrap();
    source.vouch(manifest.as_ref(), Artifact::Kernel, &[9; 32]).unwrap_err();
    assert_eq!(source.path(Artifact::Rootfs), PathBuf::from("/other"));
}
