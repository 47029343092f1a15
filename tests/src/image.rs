//! Where the artifacts under test are.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use served_agent::image_dir;
use vmm::{DiskImage, KernelImage};

/// The program `bsm-redteam`: `BSM_REDTEAM_BIN`, or the one that cargo built beside this test.
///
/// # Panics
///
/// Where the path of the running test is unknown.
pub fn redteam_binary() -> PathBuf {
    std::env::var_os("BSM_REDTEAM_BIN").map_or_else(
        || {
            let test = std::env::current_exe().expect("the running test has a path");
            test.ancestors().nth(2).expect("cargo's directory").join("bsm-redteam")
        },
        PathBuf::from,
    )
}

/// The guest kernel.
pub fn kernel() -> Arc<KernelImage> {
    let path = image_dir().join("vmlinux");
    Arc::new(KernelImage::open(&path).expect("no kernel: run `cargo xtask image`"))
}

/// The root file system.
pub fn rootfs() -> Arc<DiskImage> {
    let path = image_dir().join("rootfs.ext4");
    Arc::new(DiskImage::open(&path).expect("no root file system: run `cargo xtask image`"))
}

/// The kernel command line of the manifest.
pub fn cmdline() -> String {
    let text = std::fs::read_to_string(image_dir().join("manifest.json")).expect("no manifest");
    let manifest: Value = serde_json::from_str(&text).expect("manifest is not JSON");
    manifest["kernel_cmdline"].as_str().expect("no kernel_cmdline").to_owned()
}

/// Directory of the image with the attacks: `BSM_ATTACK_IMAGE_DIR`.
///
/// # Panics
///
/// Without that variable, which `cargo xtask test` sets.
pub fn attack_image_dir() -> PathBuf {
    std::env::var_os("BSM_ATTACK_IMAGE_DIR")
        .map(PathBuf::from)
        .expect("BSM_ATTACK_IMAGE_DIR is not set: run the tests with `cargo xtask test`")
}
