use std::fs;
use std::path::PathBuf;

use guest::evidence::format_sha256;
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;

const BLOCK: usize = 4096;
const BLOCKS: usize = 4;

/// The smallest ELF file that counts as a kernel: one segment at 1 MiB.
fn kernel() -> Vec<u8> {
    let mut elf = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(20, &1_u32.to_le_bytes());
    put(24, &0x10_0000_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &64_u16.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    put(64, &1_u32.to_le_bytes());
    put(72, &0x200_u64.to_le_bytes());
    put(80, &0x10_0000_u64.to_le_bytes());
    put(88, &0x10_0000_u64.to_le_bytes());
    put(96, &0x100_u64.to_le_bytes());
    put(104, &0x1000_u64.to_le_bytes());
    elf
}

/// An ext4 superblock in a file of the size it speaks of.
fn rootfs() -> Vec<u8> {
    let mut disk = vec![0; BLOCK * BLOCKS];
    disk[1024 + 0x4] = BLOCKS as u8;
    disk[1024 + 0x18] = 2;
    disk[1024 + 0x38..1024 + 0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
    disk
}

fn digest(bytes: &[u8]) -> String {
    format_sha256(&Sha256::digest(bytes).into())
}

struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { dir: TempDir::new().unwrap() };
        fixture.write("vmlinux", &kernel());
        fixture.write("rootfs.ext4", &rootfs());
        fixture.write_manifest(&digest(&kernel()), &digest(&rootfs()));
        fixture
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn write_manifest(&self, kernel: &str, rootfs: &str) {
        let manifest = json!({
            "schema_version": 1, "input_digest": "", "inputs": {},
            "artifacts": {
                "vmlinux": {"sha256": kernel, "bytes": 0},
                "rootfs.ext4": {"sha256": rootfs, "bytes": 0},
            },
            "kernel_cmdline": "from the manifest", "guest_port": 1234, "tools": [],
            "versions": {"kernel": "6.12"},
        });
        self.write("manifest.json", manifest.to_string().as_bytes());
    }

    fn source(&self) -> ImageSource {
        ImageSource::directory(self.dir.path())
    }

    fn error(&self) -> ImageError {
        match KvmImage::open(&self.source()) {
            Ok(_) => panic!("opened"),
            Err(error) => error,
        }
    }
}

#[test]
fn an_image_that_fits_its_manifest_is_verified() {
    let image = KvmImage::open(&Fixture::new().source()).unwrap();
    assert!(image.is_verified());
    assert_eq!((image.cmdline(), image.guest_port()), ("from the manifest", 1234));
    assert!(image.summary().contains("kernel 6.12"), "{}", image.summary());
}

#[test]
fn a_changed_part_is_named_with_both_digests_and_what_to_do() {
    for (artifact, name, mut bytes) in
        [(Artifact::Kernel, "vmlinux", kernel()), (Artifact::Rootfs, "rootfs.ext4", rootfs())]
    {
        let fixture = Fixture::new();
        let before = digest(&bytes);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let path = fixture.write(name, &bytes);
        let error = fixture.error();
        assert!(matches!(error, ImageError::Mismatch { artifact: a, .. } if a == artifact));
        let text = error.to_string();
        let path = path.display().to_string();
        for part in [&path, &before, &digest(&bytes), "cargo xtask image"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}

#[test]
fn a_missing_empty_or_truncated_part_is_told_apart() {
    for (artifact, bytes) in [(Artifact::Kernel, kernel()), (Artifact::Rootfs, rootfs())] {
        let fixture = Fixture::new();
        let path = fixture.write(artifact.file_name(), &bytes[..bytes.len() - 0xf80]);
        let error = fixture.error();
        assert!(
            matches!(error, ImageError::Truncated { artifact: a, .. } if a == artifact),
            "{error}"
        );
        fs::write(&path, b"").unwrap();
        let error = fixture.error();
        assert!(matches!(error, ImageError::Empty { artifact: a, .. } if a == artifact), "{error}");
        fs::remove_file(&path).unwrap();
        let error = fixture.error();
        assert!(matches!(error, ImageError::Missing { artifact: a, .. } if a == artifact));
        assert!(error.is_missing());
        assert!(error.to_string().contains("--image-dir"), "{error}");
    }
}

#[test]
fn other_files_are_no_kernel_and_no_file_system() {
    let fixture = Fixture::new();
    fixture.write("vmlinux", &[0x90; 5000]);
    assert!(matches!(fixture.error(), ImageError::NotAKernel { .. }));
    let fixture = Fixture::new();
    fixture.write("rootfs.ext4", &[0x90; 5000]);
    assert!(matches!(fixture.error(), ImageError::NotAFilesystem { .. }));
    // A disk with a partition table does not start with its file system.
    let disk = [vec![0; 1 << 20], rootfs()].concat();
    fixture.write("rootfs.ext4", &disk);
    assert!(matches!(fixture.error(), ImageError::NotAFilesystem { .. }));
}

#[test]
fn a_manifest_that_cannot_be_read_or_lists_too_little_is_refused() {
    let fixture = Fixture::new();
    fixture.write("manifest.json", b"{}");
    assert!(matches!(fixture.error(), ImageError::Manifest { .. }));
    let text = json!({
        "schema_version": 1, "input_digest": "", "inputs": {}, "artifacts": {},
        "kernel_cmdline": "", "guest_port": 1, "tools": [], "versions": {},
    });
    fixture.write("manifest.json", text.to_string().as_bytes());
    let error = fixture.error();
    assert!(matches!(error, ImageError::Manifest { .. }));
    assert!(error.to_string().contains("does not list"), "{error}");
}

#[test]
fn without_a_manifest_an_image_is_usable_and_not_verified() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.dir.path().join("manifest.json")).unwrap();
    let image = KvmImage::open(&fixture.source()).unwrap();
    assert!(!image.is_verified());
    assert_eq!((image.cmdline(), image.guest_port()), (DEFAULT_CMDLINE, 52000));
}

#[test]
fn a_replaced_part_is_not_compared_and_the_other_one_is() {
    let fixture = Fixture::new();
    let mut other = kernel();
    other[0x800] = 1;
    let source =
        ImageSource { kernel: Some(fixture.write("my-kernel", &other)), ..fixture.source() };
    let image = KvmImage::open(&source).unwrap();
    assert!(!image.is_verified());
    assert_eq!(image.kernel().sha256().to_vec(), Sha256::digest(&other).to_vec());

    fixture.write_manifest(&digest(&kernel()), &digest(b"other"));
    assert!(matches!(
        KvmImage::open(&source),
        Err(ImageError::Mismatch { artifact: Artifact::Rootfs, .. })
    ));
}
