//! The agent's binary where no Linux guest is needed: how it is linked, and what it says when
//! something is missing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::path::Path;
use std::process::{Command, Output};

use integration_tests::{agent_binary, redteam_binary};

fn agent(arguments: &[&str]) -> Output {
    Command::new(agent_binary()).env_clear().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_binary_is_static() {
    let file = Command::new("file").arg("-L").arg(agent_binary()).output().unwrap();
    let described = text(&file.stdout);
    assert!(
        described.contains("static-pie linked") || described.contains("statically linked"),
        "{described}"
    );
    let ldd = Command::new("ldd").arg(agent_binary()).output().unwrap();
    let said = text(&ldd.stdout) + &text(&ldd.stderr);
    assert!(said.contains("statically linked") || said.contains("not a dynamic"), "{said}");
}

/// Names of what changes a machine behind its own back, or serves without a relay, as symbols carry
/// them: a number before a name is its length.
const HOOKS: [&str; 8] = [
    "FaultPoint",
    "inject_faults",
    "Tamper",
    "flip_register",
    "flip_msr",
    "flip_interrupt_controller",
    "7corrupt",
    "LoopbackSession",
];

/// Those of the hooks whose names are anywhere in a program: in a symbol or in a string.
fn hooks_in(program: &Path) -> Vec<&'static str> {
    let bytes = std::fs::read(program).unwrap();
    let holds = |name: &str| memchr::memmem::find(&bytes, name.as_bytes()).is_some();
    // A stripped program has no names, whatever it holds.
    assert!(holds(".symtab") && holds("reset_and_verify"), "{} is stripped", program.display());
    HOOKS.into_iter().filter(|name| holds(name)).collect()
}

#[test]
fn no_hook_of_the_tests_is_in_the_agent() {
    assert_eq!(hooks_in(&agent_binary()), [""; 0]);
    // The same look at programs that are built with the hooks finds each of them.
    let tampering = hooks_in(Path::new(env!("CARGO_BIN_EXE_agent-to-tamper")));
    let attacking = hooks_in(&redteam_binary());
    for name in HOOKS {
        assert!(tampering.contains(&name) || attacking.contains(&name), "no program has {name}");
    }
}

#[test]
fn help_names_every_command() {
    let output = agent(&["--help"]);
    assert!(output.status.success());
    for command in ["exec", "doctor", "tools"] {
        assert!(text(&output.stdout).contains(command), "{}", text(&output.stdout));
    }
}

#[test]
fn a_missing_image_is_named_with_a_remedy() {
    let output = agent(&["--image-dir", "/nonexistent/image", "exec", "echo"]);
    assert_eq!(output.status.code(), Some(126), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("/nonexistent/image"), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_changed_artifact_is_refused_with_both_digests() {
    let image = integration_tests::image_dir();
    let copy = tempfile::tempdir().unwrap();
    for name in ["vmlinux", "rootfs.ext4", "manifest.json"] {
        std::fs::copy(image.join(name), copy.path().join(name)).unwrap();
    }
    let rootfs = copy.path().join("rootfs.ext4");
    let mut bytes = std::fs::read(&rootfs).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&rootfs, bytes).unwrap();
    let output = agent(&["--image-dir", copy.path().to_str().unwrap(), "exec", "echo"]);
    assert_eq!(output.status.code(), Some(126));
    let said = text(&output.stderr);
    assert!(said.contains("rootfs.ext4") && said.matches("sha256:").count() >= 2, "{said}");
}

#[test]
fn broken_kernels_and_disks_are_told_apart() {
    let image = integration_tests::image_dir();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let kernel = std::fs::read(image.join("vmlinux")).unwrap();
    // The magic number of a file system, on a disk that ends in the middle of a sector.
    let mut odd = vec![0; (1 << 20) + 100];
    odd[1024 + 0x38..][..2].copy_from_slice(&[0x53, 0xef]);
    let dir = image.to_str().unwrap();
    for (option, path, says) in [
        ("--kernel", "/nonexistent/vmlinux".to_owned(), "/nonexistent/vmlinux"),
        ("--kernel", write("empty", b""), "empty"),
        ("--kernel", write("text", b"#!/bin/sh\necho hi\n"), "kernel"),
        ("--kernel", write("cut", &kernel[..kernel.len() / 2]), "short"),
        ("--rootfs", write("zeros", &vec![0; 1 << 20]), "file system"),
        ("--rootfs", write("odd", &odd), "512"),
    ] {
        let output = agent(&["--image-dir", dir, option, &path, "exec", "echo"]);
        assert_eq!(output.status.code(), Some(126), "{path}");
        assert!(text(&output.stderr).contains(says), "{path}: {}", text(&output.stderr));
    }
}

#[test]
fn numbers_out_of_range_are_usage_errors_that_name_the_range() {
    for (option, value) in
        [("--memory-mib", "63"), ("--memory-mib", "8193"), ("--vcpus", "9"), ("--cid", "2")]
    {
        let output = agent(&[option, value, "exec", "echo"]);
        assert_eq!(output.status.code(), Some(2), "{option} {value}: {}", text(&output.stderr));
    }
}

#[test]
fn the_shipped_artifacts_stay_small() {
    let image = integration_tests::image_dir();
    let size = |name: &str| std::fs::metadata(image.join(name)).unwrap().len();
    // The agent's share of 30 MB is measured on its release build.
    assert!(size("vmlinux") + size("rootfs.ext4") < 24_000_000);
}
