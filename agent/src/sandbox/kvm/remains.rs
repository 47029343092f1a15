//! What is saved of a machine before it is ended.

use std::fmt::Write;

use vmm::Machine;

use crate::sandbox::{Remains, Verification};

/// Lines of the guest's console that are kept.
const CONSOLE_LINES: usize = 200;

/// Of a machine that did not pass.
pub fn of_diverged(machine: &Machine, verification: &Verification) -> Remains {
    let _ = verification;
    of_failed(machine)
}

/// Of a machine that could not be put back.
pub fn of_failed(machine: &Machine) -> Remains {
    Remains { console: console(machine), state: state(machine), ..Remains::default() }
}

fn console(machine: &Machine) -> String {
    machine.console().last_lines(CONSOLE_LINES).join("\n")
}

/// What KVM says, as far as it still says anything.
fn state(machine: &Machine) -> String {
    let mut text = match machine.state() {
        Ok(state) => format!("{state:#?}\n"),
        Err(error) => format!("not known: {error}\n"),
    };
    if let Ok(differences) = machine.state_differences() {
        for difference in &differences.0 {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{difference}");
        }
    }
    text
}
