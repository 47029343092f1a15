//! Reading the kernel's text files.

/// `vmx` or `svm`, when the first processor of `/proc/cpuinfo` offers it.
pub fn virtualisation(cpuinfo: &str) -> Option<&'static str> {
    ["vmx", "svm"].into_iter().find(|flag| has_flag(cpuinfo, flag))
}

/// Whether the first processor of `/proc/cpuinfo` has a flag.
pub fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    flags.is_some_and(|(_, list)| list.split_whitespace().any(|f| f == flag))
}

/// `MemAvailable` of `/proc/meminfo`, in MiB.
pub fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

/// Name of the group `gid` in `/etc/group`. Read as a file: a static program must not load the
/// host's name service plugins.
pub fn group_name(group_file: &str, gid: u32) -> Option<String> {
    group_file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

/// Path of this process in the unified hierarchy, by `/proc/self/cgroup`.
pub fn unified_path(self_cgroup: &str) -> Option<&str> {
    self_cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Path of this process for a version 1 controller, by `/proc/self/cgroup`.
pub fn controller_path<'a>(self_cgroup: &'a str, controller: &str) -> Option<&'a str> {
    self_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let mut controllers = fields.next()?.split(',');
        controllers.any(|c| c == controller).then(|| fields.next())?
    })
}

/// A memory limit file, in MiB; `None` for no limit. Version 1 spells that as a huge number.
pub fn limit_mib(text: &str) -> Option<u64> {
    const NO_LIMIT_MIB: u64 = 1 << 40;
    let bytes: u64 = text.trim().parse().ok()?;
    Some(bytes >> 20).filter(|mib| *mib < NO_LIMIT_MIB)
}
