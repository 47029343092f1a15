//! What the integration tests share: where the image is, and a guest spoken to frame by frame.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

pub mod agent_process;
mod image;
pub mod ordered;
mod raw_guest;

pub use image::{attack_image_dir, cmdline, kernel, redteam_binary, rootfs};
pub use raw_guest::{RawConnection, RawGuest, Received, default_config, dispatch, freshness};
pub use served_agent::{LIMIT, ServedAgent, agent_binary, damage, image_dir};
