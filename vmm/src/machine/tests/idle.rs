//! Captures wait for a moment when the guest is idle.

use std::time::Duration;

use super::tiny_guest::{SPIN, config};
use crate::machine::*;
use crate::snapshot::Strategy;

/// `1: hlt; jmp 1b`, with interrupts off.
const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd];

#[test]
fn a_halted_guest_is_captured_and_runs_on() {
    let machine = Machine::create(config(&HALT)).unwrap();
    machine.boot().unwrap();
    let golden = machine.capture_when_idle(Duration::from_secs(20)).unwrap();
    assert!(!machine.is_paused() && machine.stop_reason().is_none());
    assert!(Machine::fork(&golden).unwrap().differences().unwrap().is_empty());
}

#[test]
fn a_guest_that_never_idles_is_not_captured_and_runs_on() {
    let machine = Machine::create(config(&SPIN)).unwrap();
    machine.boot().unwrap();
    let error = machine.capture_when_idle(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, MachineError::NotIdle { .. }), "{error}");
    assert!(!machine.is_paused() && machine.stop_reason().is_none());
    assert!(matches!(machine.reset(Strategy::CopyBack), Err(MachineError::NotCaptured)));
}
