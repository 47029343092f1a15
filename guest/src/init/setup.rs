//! Mounts, cgroups and PID 1's own protection.

use std::fs;

use guest::registry::Registry;
use guest::wire::DEFAULT_PORT;
use nix::mount::{MsFlags, mount};

use super::console;

/// Tools' cgroups lie below this one.
pub const TOOL_CGROUPS: &str = "/sys/fs/cgroup/tools";
const REGISTRY: &str = "/etc/bsm/tools.json";
const HOSTNAME: &str = "bsm-sandbox";
/// Share of the processors that all tools have together while PID 1 (100) has work too.
const TOOLS_CPU_WEIGHT: &str = "50";

/// Everything else that is mounted.
pub fn mounts() -> Result<(), String> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let tmp = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (kind, target, flags, options) in [
        ("proc", "/proc", safe, ""),
        ("sysfs", "/sys", safe | MsFlags::MS_RDONLY, ""),
        ("cgroup2", "/sys/fs/cgroup", safe, ""),
        ("tmpfs", "/tmp", tmp, "mode=1777,size=8m"),
        ("tmpfs", "/run", tmp, "mode=755,size=1m"),
    ] {
        mount(Some(kind), target, Some(kind), flags, Some(options))
            .map_err(|e| format!("cannot mount {target}: {e}"))?;
    }
    fs::create_dir(TOOL_CGROUPS).map_err(|e| format!("cannot create {TOOL_CGROUPS}: {e}"))?;
    for group in ["/sys/fs/cgroup", TOOL_CGROUPS] {
        let file = format!("{group}/cgroup.subtree_control");
        fs::write(&file, "+memory +pids +cpu").map_err(|e| format!("cannot write {file}: {e}"))?;
    }
    let weight = format!("{TOOL_CGROUPS}/cpu.weight");
    fs::write(&weight, TOOLS_CPU_WEIGHT).map_err(|e| format!("cannot write {weight}: {e}"))?;
    let _ = nix::unistd::sethostname(HOSTNAME);
    Ok(())
}

/// Whatever runs out of memory, it is not PID 1 that goes.
pub fn protect_self() {
    if let Err(e) = fs::write("/proc/self/oom_score_adj", "-1000") {
        console::print(&format!("cannot protect itself: {e}"));
    }
}

/// The image's tools, with those enabled that the kernel command line names.
pub fn registry(enabled: &str) -> Result<Registry, String> {
    let text = fs::read_to_string(REGISTRY).map_err(|e| format!("cannot read {REGISTRY}: {e}"))?;
    let mut registry = Registry::parse(&text).map_err(|e| e.to_string())?;
    for name in enabled.split(',').filter(|name| !name.is_empty()) {
        if let Err(e) = registry.enable([name]) {
            console::print(&e.to_string());
        }
    }
    Ok(registry)
}

/// The port to listen on: what the kernel command line says, or else the usual one.
pub fn port(text: Option<&str>) -> u32 {
    match text.map(str::parse) {
        None => DEFAULT_PORT,
        Some(Ok(port)) => port,
        Some(Err(e)) => {
            console::print(&format!("BSM_VSOCK_PORT is no port ({e}); using {DEFAULT_PORT}"));
            DEFAULT_PORT
        }
    }
}
