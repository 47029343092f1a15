//! Flags that every subcommand takes.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, ConfigError, Overrides};

/// Flags that every subcommand takes. Ranges are checked where all sources meet.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub struct SettingsArguments {
    /// Configuration file [default: /etc/brainstorm-agent/config.toml, if there is one].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory with vmlinux, rootfs.ext4 and manifest.json [default:
    /// /usr/lib/brainstorm-agent/image, or ./target/image where none is installed].
    #[arg(long, global = true, value_name = "DIR")]
    image_dir: Option<PathBuf>,

    /// Kernel to use in place of the image's; its digest is not checked.
    #[arg(long, global = true, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Root file system to use in place of the image's; its digest is not checked.
    #[arg(long, global = true, value_name = "FILE")]
    rootfs: Option<PathBuf>,

    /// vCPUs of the microVM, 1 to 8 [default: 1].
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    vcpus: Option<i64>,

    /// RAM of the microVM in MiB, 64 to 8192 [default: 128].
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    memory_mib: Option<i64>,

    /// vsock address of the guest, 3 or more [default: 3].
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    cid: Option<i64>,

    /// vsock port of the guest program, 1 to 65535 [default: the image's].
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    guest_port: Option<i64>,

    /// Enable a tool that the image leaves disabled; can be repeated.
    #[arg(long = "enable-tool", global = true, value_name = "TOOL")]
    enable_tools: Vec<String>,

    /// Where the agent keeps its identity and its stores [default: /var/lib/brainstorm-agent].
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl SettingsArguments {
    /// The flags alone.
    pub fn flags(&self) -> Overrides {
        Overrides {
            image_dir: self.image_dir.clone(),
            kernel: self.kernel.clone(),
            rootfs: self.rootfs.clone(),
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            cid: self.cid,
            guest_port: self.guest_port,
            enable_tools: Some(self.enable_tools.clone()).filter(|tools| !tools.is_empty()),
            state_dir: self.state_dir.clone(),
            ..Overrides::default()
        }
    }

    /// Merges flags with all other sources.
    pub fn load(&self, flags: Overrides) -> Result<Config, ConfigError> {
        Config::load(flags, self.config.as_deref())
    }
}
