//! Machines that their guests end: another takes their place, unless they have something to hide.

#![allow(clippy::unwrap_used, reason = "a test that fails")]

use std::sync::Arc;
use std::time::Duration;

use brainstorm_agent::degraded::DegradedMode;
use redteam::{Guest, Plan, Testbed};
use sandbox::{ImageSource, KvmSandbox, Sandbox, SandboxSpec, SandboxState};
use sandbox::{Verdict, VerifiedReset};
use serde_json::json;
use vmm::{Machine, Tamper};

/// A guest whose tools are root and can end it.
fn testbed() -> Testbed {
    let image = integration_tests::attack_image_dir();
    let sandbox = SandboxSpec::new(ImageSource::directory(image));
    Testbed::new(Plan { machines: 1, gates: false, ..Plan::new(sandbox) })
}

/// Has a tool end the machine after `deed` was done to it, and puts the sandbox back.
fn end(testbed: &Testbed, sandbox: &KvmSandbox, deed: impl FnOnce(&Machine)) -> VerifiedReset {
    let machine = sandbox.machine().unwrap();
    machine.pause().unwrap();
    deed(&machine);
    machine.resume().unwrap();
    let how = json!({"how": "crash-init"});
    testbed.run(sandbox, "attack_destroy", how, Duration::from_secs(20)).unwrap_err();
    assert!(machine.stop_reason().is_some(), "the machine still lives");
    sandbox.reset_verified().unwrap()
}

#[test]
fn another_machine_takes_the_place_of_one_that_has_nothing_to_hide() {
    let (testbed, state) = (testbed(), tempfile::tempdir().unwrap());
    let sandbox = testbed.kvm(Guest::Bare).unwrap();
    let degraded = Arc::new(DegradedMode::open(state.path()));
    sandbox.set_incident_handler(Arc::clone(&degraded) as _);
    for _ in 0..3 {
        // What its guest wrote may go with it.
        let reset =
            end(&testbed, &sandbox, |machine| machine.write_disk(8192, &[7; 4096]).unwrap());
        assert!(reset.verification.passed(), "{:#?}", reset.verification);
        assert!(degraded.current().is_none());
        assert_eq!(testbed.next_command(&*sandbox), None);
    }
}

#[test]
fn no_machine_takes_the_place_of_one_whose_disk_was_changed() {
    let deeds: [fn(&Machine); 2] = [
        |machine| machine.tamper(Tamper::Base { block: 100 }).unwrap(),
        |machine| {
            machine.write_disk(8192, &[7; 4096]).unwrap();
            machine.tamper(Tamper::Overlay { block: 2 }).unwrap();
        },
    ];
    let testbed = testbed();
    let first = testbed.kvm(Guest::Bare).unwrap();
    for deed in deeds {
        let sandbox = KvmSandbox::fork_of(&first).unwrap();
        let state = tempfile::tempdir().unwrap();
        let degraded = Arc::new(DegradedMode::open(state.path()));
        sandbox.set_incident_handler(Arc::clone(&degraded) as _);
        sandbox.boot().unwrap();
        let VerifiedReset { outcome, verification } = end(&testbed, &sandbox, deed);
        assert!(outcome.is_none());
        assert_eq!(verification.verdict(), Verdict::Diverged, "{verification:#?}");
        assert!(!verification.disk_matches());
        let record = degraded.current().unwrap();
        assert_eq!(record.code, "ENDPOINT_RESET_VERIFICATION_DIVERGENCE");
        assert!(matches!(sandbox.state(), SandboxState::Failed { .. }));
        assert!(testbed.next_command(&sandbox).is_some());
    }
}
