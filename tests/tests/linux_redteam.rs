//! The red team's battery through its own program, and for each defence a run without it, in which
//! the probes must fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// Emulated machines take their time.
const BUDGET: &str = "120";

fn redteam(image: PathBuf, arguments: &[&str]) -> Output {
    Command::new(integration_tests::redteam_binary())
        .arg("--image-dir")
        .arg(image)
        .args(["--no-gates", "--budget", BUDGET])
        .args(arguments)
        .output()
        .unwrap()
}

/// The report and the exit code.
fn report(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = redteam(integration_tests::attack_image_dir(), &[arguments, &["--json"]].concat());
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code())
}

fn probe<'a>(report: &'a Value, name: &str) -> &'a Value {
    let probes = report["probes"].as_array().unwrap();
    probes.iter().find(|probe| probe["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

/// Without a defence the probe fails: it is not errored, and it did not pass.
fn fails_without(defence: &str, name: &str, because: &str) {
    let (report, code) = report(&["--without", defence, "--probes", name, "--iterations", "2"]);
    assert_failed(&report, name, because);
    assert_eq!(code, Some(1));
}

fn assert_failed(report: &Value, name: &str, because: &str) {
    let probe = probe(report, name);
    assert_eq!(
        (&probe["passed"], &probe["errored"]),
        (&Value::Bool(false), &Value::Bool(false)),
        "{probe:#}"
    );
    let reason = probe["reason"].as_str().unwrap();
    assert!(reason.contains(because), "{reason}");
}

#[test]
fn every_attack_is_held() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("report.html");
    let (report, code) =
        report(&["--probes", "adversarial", "--iterations", "3", "--html", page.to_str().unwrap()]);
    for probe in report["probes"].as_array().unwrap() {
        assert_eq!(probe["passed"], true, "{probe:#}");
        assert_eq!(probe["validated_against"], "validated-kvm");
    }
    assert_eq!(
        (report["schema_version"].as_str(), report["backend"].as_str()),
        (Some("1.0"), Some("kvm"))
    );
    assert_eq!(report["final_sandbox_state"], "ready");
    let summary = &report["summary"];
    assert_eq!(summary["passed"], summary["total"], "{summary}");
    assert!(summary["total"].as_u64().unwrap() >= 21, "{summary}");
    assert_eq!(code, Some(0));
    assert!(fs::read_to_string(&page).unwrap().contains("vsock-poison"));
}

#[test]
fn batteries_measure_and_machines_side_by_side_share_nothing() {
    let (report, _) = report(&[
        "--probes",
        "lat-boot,lat-reset,lat-roundtrip,conc-n",
        "--iterations",
        "3",
        "--machines",
        "2",
    ]);
    for name in ["boot", "reset", "roundtrip"] {
        assert_eq!(report["latency"][name]["samples"], 3, "{report:#}");
    }
    assert_eq!(report["summary"]["passed"], 4, "{report:#}");
}

#[test]
fn without_the_filter_packets_reach_the_host() {
    fails_without("filter", "egress", "packets of a tool reached the host");
}

#[test]
fn without_dropped_privileges_a_tool_can_do_more() {
    fails_without("privileges", "process-escape", "open for writing /sbin/init worked");
}

#[test]
fn without_filter_and_dropped_privileges_a_tool_ends_the_machine() {
    fails_without("filter,privileges", "process-escape", "ended more than itself");
}

#[test]
fn without_mounts_of_its_own_a_tools_files_are_everybodys() {
    fails_without("mounts", "marker-persistence", "is seen by another tool");
}

#[test]
fn without_limits_a_tool_takes_more() {
    fails_without("limits", "resource-exhaustion", "it got");
}

#[test]
fn without_the_end_of_its_processes_a_tool_stays() {
    fails_without("kill", "time-bomb", "outlived it");
}

#[test]
fn without_resets_marks_stay() {
    fails_without("reset", "marker-persistence", "finds the mark");
}

#[test]
fn output_that_is_taken_for_text_does_not_arrive() {
    fails_without("bytes", "stdout-injection", "invalid utf-8");
}

#[test]
fn what_a_host_shares_with_its_guests_is_found() {
    let probes = "fs-escape,fs-escape-as-root,egress-as-root";
    let (report, _) = report(&["--without", "isolation", "--probes", probes]);
    for (name, because) in [
        ("fs-escape", "the host's marker is in the guest"),
        ("fs-escape-as-root", "the host's marker is in the guest"),
        ("egress-as-root", "cid 2 port 80 worked"),
    ] {
        assert_failed(&report, name, because);
    }
}

#[test]
fn without_resets_machines_side_by_side_keep_their_marks() {
    let (report, _) = report(&["--without", "reset", "--probes", "conc-n", "--machines", "2"]);
    assert_failed(&report, "conc-n", "after its reset");
}

#[test]
fn without_deadlines_of_the_host_a_frozen_guest_goes_on() {
    let probes = "vsock-poison,time-bomb-as-root";
    let (report, _) = report(&["--without", "deadline", "--probes", probes]);
    for name in probes.split(',') {
        assert_failed(&report, name, "it took");
    }
}

#[test]
fn without_another_machine_a_tool_that_ends_its_own_ends_it_for_the_next() {
    fails_without("recovery", "process-escape-as-root", "the next command failed");
}

#[test]
fn without_resets_a_lost_connection_leaves_the_mark_to_the_next_session() {
    fails_without("reset", "reconnect", "finds the mark");
}

#[test]
fn a_host_that_believes_what_comes_is_deceived() {
    let without = "protocol,signatures,anchors,digests,journal";
    let expected = [
        ("vsock-poison", "evidence-forged: it was taken for a result"),
        ("signed-is-run", "tool as \"attack_mark\": taken"),
        ("audit-tamper", "written anew: no check noticed"),
        ("stale-image", "one bit of the disk: it is taken for what it was"),
        ("restart", "no agent answers for the command"),
    ];
    let probes = expected.map(|(name, _)| name).join(",");
    let (report, _) = report(&["--without", without, "--probes", &probes]);
    for (name, because) in expected {
        assert_failed(&report, name, because);
    }
}

#[test]
fn without_a_verification_lies_about_a_machine_are_believed() {
    let probes = "substrate-lies,substrate-golden";
    let (report, _) = report(&["--without", "verification", "--probes", probes]);
    for (name, because) in [
        ("substrate-lies", "clean-page: no source noticed"),
        ("substrate-golden", "golden-page: no source noticed"),
    ] {
        assert_failed(&report, name, because);
    }
}

#[test]
fn without_its_nonces_an_endpoint_takes_a_command_twice() {
    fails_without("nonces", "envelope-reuse", "again after a restart: taken");
}

#[test]
fn the_shipped_image_has_no_attacks() {
    let shipped = integration_tests::image_dir();
    let manifest = fs::read_to_string(shipped.join("manifest.json")).unwrap();
    assert!(!manifest.contains("attack"), "{manifest}");
    let holds_attacks = |image: PathBuf| {
        let disk = fs::read(image.join("rootfs.ext4")).unwrap();
        let texts: [&[u8]; 2] = [b"attack: no attack ", b"BSM_WITHOUT"];
        texts.map(|text| disk.windows(text.len()).any(|window| window == text))
    };
    assert_eq!(holds_attacks(shipped), [false, false]);
    assert_eq!(
        holds_attacks(integration_tests::attack_image_dir()),
        [true, true],
        "the search finds nothing anywhere"
    );
    // So a run against it proves nothing, and says so.
    let output = redteam(integration_tests::image_dir(), &["--probes", "egress", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["summary"]["errored"], 1, "{report:#}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_probe_that_does_not_exist_is_wrong_usage() {
    let output = redteam(integration_tests::attack_image_dir(), &["--probes", "nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("vsock-poison"));
}
