//! The command line of `bsm-redteam`, as far as it needs no machine.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::process::{Command, Output};

fn redteam(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bsm-redteam")).args(arguments).output().unwrap()
}

#[test]
fn an_unknown_probe_is_wrong_usage_and_named() {
    let output = redteam(&["--probes", "nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nonsense"), "{said}");
}

#[test]
fn help_names_what_can_be_left_out() {
    let output = redteam(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("--without") && said.contains("--image-dir"), "{said}");
}

#[test]
fn sandbox_lists_the_backends_and_takes_no_other() {
    let output = redteam(&["--sandbox", "nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("[possible values: kvm]"), "{said}");
    let output =
        redteam(&["--sandbox", "kvm", "--image-dir", "/nonexistent", "--probes", "envelope-reuse"]);
    assert_eq!(output.status.code(), Some(0));
}
