//! The agent's binary on a host that runs Linux guests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::process::{Command, Output};

use serde_json::Value;

fn agent(arguments: &[&str]) -> Output {
    Command::new(integration_tests::agent_binary())
        .env_clear()
        .arg("--image-dir")
        .arg(integration_tests::image_dir())
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn exec_prints_what_the_tool_printed_and_ends_as_it_ended() {
    let output = agent(&["exec", "echo", "--params", r#"{"message": "from the guest"}"#]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"from the guest\n");

    let output = agent(&["exec", "cat", "-p", "path=/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent"));
}

#[test]
fn exec_in_json_says_everything() {
    let output = agent(&["exec", "uname", "--json"]);
    let value = json(&output);
    assert_eq!(value["exit_code"], 0);
    assert!(value["stdout"].as_str().unwrap().contains("Linux"));
    assert!(value["evidence_hash"].as_str().unwrap().starts_with("sha256:"));
}

#[test]
fn unknown_tools_and_bad_parameters_have_their_codes() {
    assert_eq!(agent(&["exec", "nonsense"]).status.code(), Some(127));
    assert_eq!(agent(&["exec", "cat"]).status.code(), Some(254));
}

#[test]
fn the_doctor_finds_this_host_fit() {
    let output = agent(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    json(&output);
}
