use vmm::{Capability, KvmKind};

use super::*;
use crate::confine::{LandlockHere, NEWEST_LANDLOCK, possible};

fn healthy() -> Facts {
    Facts {
        kvm: Kvm::Usable(HostProbe::new(
            KvmKind::Hardware,
            vec![
                Capability::new("KVM_CAP_IRQCHIP", 1, true),
                Capability::new("KVM_CAP_XSAVE2", 0, false),
            ],
        )),
        virtualisation: Some("vmx"),
        is_virtual: false,
        available_mib: Some(4096),
        machine_mib: 128,
        cgroup: Cgroup { version: CgroupVersion::V2, memory_limit_mib: None },
        confinement: Possible {
            no_new_privileges: true,
            capabilities: 0xff,
            capabilities_known: true,
            landlock: LandlockHere::Version(NEWEST_LANDLOCK),
            system_calls: true,
            open_files: Some(1024),
        },
        image: Image::Verified { summary: "/image: all digests match".into() },
    }
}

fn bad_image() -> Image {
    Image::Bad { finding: "it is empty".into(), remedy: "build it again" }
}

fn check_of(facts: &Facts, name: &str) -> Check {
    assess(facts).checks.into_iter().find(|c| c.name == name).unwrap()
}

#[test]
fn a_healthy_host_is_fit_and_needs_no_remedy() {
    let report = assess(&healthy());
    assert!(report.fit);
    assert!(report.checks.iter().all(|c| c.status == CheckStatus::Ok && c.remedy.is_none()));
}

#[test]
fn each_fault_makes_the_host_unfit_with_one_remedy_line() {
    let fault = |change: fn(&mut Facts)| {
        let mut facts = healthy();
        change(&mut facts);
        facts
    };
    let software = |facts: &mut Facts| {
        if let Kvm::Usable(probe) = &mut facts.kvm {
            probe.kind = KvmKind::Software;
        }
    };
    let incapable = |facts: &mut Facts| {
        if let Kvm::Usable(probe) = &mut facts.kvm {
            probe.capabilities[0].value = 0;
        }
    };
    let cases = [
        ("kvm_device", fault(|f| f.kvm = Kvm::Missing), "modprobe kvm_intel"),
        ("kvm_device", fault(|f| f.kvm = Kvm::Forbidden { group: None }), "chgrp"),
        ("kvm_device", fault(|f| f.kvm = Kvm::Broken("busy".into())), "dmesg"),
        ("kvm_execution", fault(software), "hardware KVM"),
        ("kvm_capabilities", fault(incapable), "update"),
        ("memory", fault(|f| f.available_mib = Some(191)), "memory_mib"),
        ("memory", fault(|f| f.cgroup.memory_limit_mib = Some(100)), "cgroup"),
        ("image", fault(|f| f.image = bad_image()), "again"),
        ("no_new_privileges", fault(|f| f.confinement.no_new_privileges = false), "Linux 3.5"),
        ("capabilities", fault(|f| f.confinement.capabilities_known = false), "capset"),
        ("seccomp", fault(|f| f.confinement.system_calls = false), "CONFIG_SECCOMP_FILTER"),
    ];
    for (name, facts, word) in cases {
        assert!(!assess(&facts).fit, "{name} {facts:?}");
        let check = check_of(&facts, name);
        assert_eq!(check.status, CheckStatus::Failed, "{name}");
        let remedy = check.remedy.unwrap();
        assert!(remedy.contains(word) && !remedy.contains('\n'), "{name}: {remedy}");
    }
}

#[test]
fn a_missing_device_is_explained_by_what_the_processor_offers() {
    let remedy = |virtualisation, is_virtual| {
        let facts = Facts { kvm: Kvm::Missing, virtualisation, is_virtual, ..healthy() };
        check_of(&facts, "kvm_device").remedy.unwrap()
    };
    assert!(remedy(Some("svm"), false).contains("kvm_amd"));
    assert!(remedy(None, true).contains("nested"));
    assert!(remedy(None, false).contains("firmware"));
}

#[test]
fn no_permission_names_the_group_and_how_to_join_it() {
    let facts = Facts { kvm: Kvm::Forbidden { group: Some("virt".into()) }, ..healthy() };
    let check = check_of(&facts, "kvm_device");
    assert!(check.finding.contains("`virt`"));
    assert_eq!(check.remedy.unwrap(), "run `sudo usermod -aG virt $USER`, then log in again");
    assert_eq!(check_of(&facts, "kvm_execution").status, CheckStatus::Skipped);
    assert_eq!(check_of(&facts, "kvm_capabilities").status, CheckStatus::Skipped);
}

#[test]
fn warnings_do_not_make_the_host_unfit() {
    let facts = Facts {
        is_virtual: true,
        cgroup: Cgroup { version: CgroupVersion::V1, memory_limit_mib: None },
        image: Image::Unverified { summary: "no manifest".into() },
        ..healthy()
    };
    let report = assess(&facts);
    assert!(report.fit);
    let warnings = report.checks.iter().filter(|c| c.status == CheckStatus::Warning);
    assert_eq!(warnings.map(|c| c.name).collect::<Vec<_>>(), ["nesting", "cgroup", "image"]);
}

#[test]
fn a_layer_that_is_missing_or_thin_is_a_warning_with_a_remedy() {
    let with = |change: fn(&mut Possible)| {
        let mut facts = healthy();
        change(&mut facts.confinement);
        facts
    };
    for (name, facts, word) in [
        ("landlock", with(|p| p.landlock = LandlockHere::Missing), "5.13"),
        ("landlock", with(|p| p.landlock = LandlockHere::SwitchedOff), "lsm="),
        ("landlock", with(|p| p.landlock = LandlockHere::Version(1)), "6.10"),
        ("limits", with(|p| p.open_files = Some(256)), "LimitNOFILE"),
    ] {
        assert!(assess(&facts).fit, "{name}");
        let check = check_of(&facts, name);
        assert_eq!(check.status, CheckStatus::Warning, "{name}");
        assert!(check.remedy.unwrap().contains(word), "{name}");
    }
    assert_eq!(check_of(&with(|p| p.open_files = None), "limits").status, CheckStatus::Ok);
}

#[test]
fn what_can_be_given_up_is_found_out_by_asking_the_kernel() {
    // These tests run where the agent's other tests put filters in force.
    let possible = possible();
    assert!(possible.system_calls && possible.no_new_privileges && possible.capabilities_known);
}

#[test]
fn the_table_shows_every_check_and_colours_only_on_request() {
    let facts = Facts { kvm: Kvm::Missing, ..healthy() };
    let report = assess(&facts);
    let plain = render(&report, Drawing { colour: false, width: 100 });
    for check in &report.checks {
        assert!(plain.contains(check.name), "{plain}");
    }
    assert!(plain.contains("→ run `sudo modprobe kvm_intel`"), "{plain}");
    assert!(plain.contains("NOT fit"), "{plain}");
    assert!(!plain.contains('\u{1b}'), "{plain}");
    let coloured = render(&report, Drawing { colour: true, width: 100 });
    assert!(coloured.contains('\u{1b}'));
}

#[test]
fn the_json_form_is_stable() {
    let json = serde_json::to_value(assess(&healthy())).unwrap();
    assert_eq!((&json["schema_version"], &json["fit"]), (&1.into(), &true.into()));
    assert_eq!(json["checks"][0]["name"], "kvm_device");
    assert_eq!(json["checks"][0]["status"], "ok");
    assert!(json["checks"][0].get("remedy").is_none());
}

#[test]
fn kernel_files_are_understood() {
    let cpuinfo = "processor : 0\nflags\t\t: fpu svm hypervisor\nbugs : x\n";
    assert_eq!(parse::virtualisation(cpuinfo), Some("svm"));
    assert!(parse::has_flag(cpuinfo, "hypervisor") && !parse::has_flag(cpuinfo, "hyper"));
    assert_eq!(parse::virtualisation("flags : fpu"), None);
    assert_eq!(parse::available_mib("MemTotal: 9 kB\nMemAvailable:   2097152 kB\n"), Some(2048));
    assert_eq!(parse::available_mib(""), None);
    let groups = "root:x:0:\nkvm:x:993:alice,bob\nbroken\n";
    assert_eq!(parse::group_name(groups, 993).as_deref(), Some("kvm"));
    assert_eq!(parse::group_name(groups, 7), None);
    assert_eq!(parse::unified_path("4:memory:/a\n0::/b/c\n"), Some("/b/c"));
    assert_eq!(parse::controller_path("4:cpu,memory:/a:b\n0::/\n", "memory"), Some("/a:b"));
    assert_eq!(parse::controller_path("0::/\n", "memory"), None);
    assert_eq!(parse::limit_mib("268435456\n"), Some(256));
    assert_eq!(parse::limit_mib("max\n"), None);
    assert_eq!(parse::limit_mib("9223372036854771712\n"), None, "version 1 for no limit");
}
