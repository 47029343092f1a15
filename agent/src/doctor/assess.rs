//! From facts to a judgement with remedies.

mod confinement;

use vmm::{HostProbe, KvmKind};

use super::{Cgroup, CgroupVersion, Check, CheckStatus, DoctorReport, Facts, Image, Kvm};

/// What a machine needs beside its RAM, in MiB: page tables, devices, buffers.
const OVERHEAD_MIB: u64 = 64;

/// Judges.
pub fn assess(facts: &Facts) -> DoctorReport {
    let mut checks = vec![
        device(facts),
        execution(facts),
        capabilities(&facts.kvm),
        nesting(facts),
        memory(facts),
        cgroup(facts.cgroup),
        image(&facts.image),
    ];
    checks.extend(confinement::checks(&facts.confinement));
    let fit = checks.iter().all(|c| matches!(c.status, CheckStatus::Ok | CheckStatus::Warning));
    DoctorReport { schema_version: 1, fit, checks }
}

fn check(name: &'static str, status: CheckStatus, finding: impl Into<String>) -> Check {
    Check { name, status, finding: finding.into(), remedy: None }
}

impl Check {
    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

fn device(facts: &Facts) -> Check {
    const NAME: &str = "kvm_device";
    match &facts.kvm {
        Kvm::Usable(probe) => check(
            NAME,
            CheckStatus::Ok,
            format!("/dev/kvm opens, API version {}", probe.api_version),
        ),
        Kvm::Missing => check(NAME, CheckStatus::Failed, "/dev/kvm does not exist")
            .remedy(without_device(facts)),
        Kvm::Forbidden { group: Some(group) } => check(
            NAME,
            CheckStatus::Failed,
            format!("/dev/kvm belongs to group `{group}`, not to you"),
        )
        .remedy(format!("run `sudo usermod -aG {group} $USER`, then log in again")),
        Kvm::Forbidden { group: None } => {
            check(NAME, CheckStatus::Failed, "/dev/kvm may not be opened by this user")
                .remedy("run `sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm`, join group kvm")
        }
        Kvm::Broken(reason) => check(NAME, CheckStatus::Failed, reason)
            .remedy("look at `dmesg | grep -i kvm`; another hypervisor may hold the processor"),
    }
}

fn without_device(facts: &Facts) -> &'static str {
    match (facts.virtualisation, facts.is_virtual) {
        (Some("svm"), _) => "run `sudo modprobe kvm_amd`",
        (Some(_), _) => "run `sudo modprobe kvm_intel`",
        (None, true) => "enable nested virtualisation for this virtual machine on its host",
        (None, false) => "enable VT-x or AMD-V in the firmware settings",
    }
}

fn execution(facts: &Facts) -> Check {
    const NAME: &str = "kvm_execution";
    let Kvm::Usable(probe) = &facts.kvm else {
        return check(NAME, CheckStatus::Skipped, "needs /dev/kvm");
    };
    match probe.kind {
        KvmKind::Hardware => check(
            NAME,
            CheckStatus::Ok,
            format!("the processor runs guest code (test loop: {} us)", probe.loop_us),
        ),
        KvmKind::Software => {
            check(NAME, CheckStatus::Failed, "guest code is interpreted; Linux guests do not boot")
                .remedy("use a host with hardware KVM, or enable nested virtualisation for it")
        }
    }
}

fn capabilities(kvm: &Kvm) -> Check {
    const NAME: &str = "kvm_capabilities";
    let Kvm::Usable(probe) = kvm else {
        return check(NAME, CheckStatus::Skipped, "needs /dev/kvm");
    };
    let missing = probe.missing();
    if missing.is_empty() {
        check(NAME, CheckStatus::Ok, present_capabilities(probe))
    } else {
        check(NAME, CheckStatus::Failed, format!("missing: {}", missing.join(", ")))
            .remedy("update the host's kernel")
    }
}

fn present_capabilities(probe: &HostProbe) -> String {
    let absent: Vec<&str> =
        probe.capabilities.iter().filter(|c| c.value == 0).map(|c| c.name).collect();
    let present = probe.capabilities.len() - absent.len();
    if absent.is_empty() {
        format!("all {present} are there")
    } else {
        format!("{present} are there; optional and absent: {}", absent.join(", "))
    }
}

fn nesting(facts: &Facts) -> Check {
    const NAME: &str = "nesting";
    if facts.is_virtual {
        check(NAME, CheckStatus::Warning, "this host is a virtual machine itself")
            .remedy("expect slower boots and resets; use a physical host where that matters")
    } else {
        check(NAME, CheckStatus::Ok, "this host is a physical machine")
    }
}

fn memory(facts: &Facts) -> Check {
    const NAME: &str = "memory";
    let Some(available) = facts.available_mib else {
        return check(NAME, CheckStatus::Warning, "available memory is unknown")
            .remedy("mount /proc, from which it is read");
    };
    let usable = facts.cgroup.memory_limit_mib.map_or(available, |limit| limit.min(available));
    let needed = facts.machine_mib + OVERHEAD_MIB;
    let finding = format!("{usable} MiB available, one machine takes up to {needed} MiB");
    if usable >= needed {
        check(NAME, CheckStatus::Ok, finding)
    } else {
        check(NAME, CheckStatus::Failed, finding)
            .remedy("free memory, raise the cgroup's limit, or lower `memory_mib`")
    }
}

fn cgroup(cgroup: Cgroup) -> Check {
    const NAME: &str = "cgroup";
    let limit = match cgroup.memory_limit_mib {
        Some(mib) => format!("memory limit {mib} MiB"),
        None => "no memory limit".into(),
    };
    match cgroup.version {
        CgroupVersion::V2 => check(NAME, CheckStatus::Ok, format!("version 2, {limit}")),
        CgroupVersion::V1 => check(NAME, CheckStatus::Warning, format!("version 1, {limit}"))
            .remedy("boot the host with `systemd.unified_cgroup_hierarchy=1`"),
        CgroupVersion::None => check(NAME, CheckStatus::Warning, "none mounted")
            .remedy("mount cgroup2 on /sys/fs/cgroup to limit what the agent may use"),
    }
}

fn image(image: &Image) -> Check {
    const NAME: &str = "image";
    match image {
        Image::Verified { summary } => check(NAME, CheckStatus::Ok, summary),
        Image::Unverified { summary } => check(NAME, CheckStatus::Warning, summary)
            .remedy("use an image with its manifest.json: build one with `cargo xtask image`"),
        Image::Bad { finding, remedy } => check(NAME, CheckStatus::Failed, finding).remedy(*remedy),
    }
}
