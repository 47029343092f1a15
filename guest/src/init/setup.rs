//! Mounts, cgroups and PID 1's own protection.

use std::fs;
use std::os::fd::AsRawFd;

use guest::registry::Registry;
use nix::mount::{MsFlags, mount};

/// Tools' cgroups lie below this one.
pub const TOOL_CGROUPS: &str = "/sys/fs/cgroup/tools";
const REGISTRY: &str = "/etc/bsm/tools.json";
const HOSTNAME: &str = "bsm-sandbox";

/// The root file system has no device nodes, so the kernel gave PID 1 no console. Without this,
/// the first files it opens would become its standard streams.
pub fn console() {
    let nodev = MsFlags::MS_NOSUID;
    let _ = mount(Some("devtmpfs"), "/dev", Some("devtmpfs"), nodev, None::<&str>);
    if let Ok(console) = fs::OpenOptions::new().read(true).write(true).open("/dev/console") {
        for stream in 0..3 {
            // SAFETY: duplicates an open descriptor over the standard streams, which nothing in
            // this process has opened yet.
            unsafe { libc::dup2(console.as_raw_fd(), stream) };
        }
        if console.as_raw_fd() < 3 {
            std::mem::forget(console);
        }
    }
}

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
    let _ = nix::unistd::sethostname(HOSTNAME);
    Ok(())
}

/// Whatever runs out of memory, it is not PID 1 that goes.
pub fn protect_self() {
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}

/// The image's tools, with those enabled that the kernel command line names.
pub fn registry(enabled: &str) -> Result<Registry, String> {
    let text = fs::read_to_string(REGISTRY).map_err(|e| format!("cannot read {REGISTRY}: {e}"))?;
    let mut registry = Registry::parse(&text).map_err(|e| e.to_string())?;
    for name in enabled.split(',').filter(|name| !name.is_empty()) {
        if let Err(e) = registry.enable([name]) {
            eprintln!("guest-init: {e}");
        }
    }
    Ok(registry)
}
