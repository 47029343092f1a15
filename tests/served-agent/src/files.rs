//! Where the agent and its image are.

use std::path::{Path, PathBuf};

/// The image directory: `BSM_IMAGE_DIR`, or `target/image` of the workspace.
pub fn image_dir() -> PathBuf {
    std::env::var_os("BSM_IMAGE_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/image"),
        PathBuf::from,
    )
}

/// The agent's binary: `BSM_AGENT_BIN`, which `cargo xtask` sets.
///
/// # Panics
///
/// Without that variable.
pub fn agent_binary() -> PathBuf {
    std::env::var_os("BSM_AGENT_BIN")
        .map(PathBuf::from)
        .expect("BSM_AGENT_BIN is not set: run this with `cargo xtask test` or `cargo xtask bench`")
}
