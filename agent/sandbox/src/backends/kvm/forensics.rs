//! What is saved of a machine before it is ended.

use std::fmt::Write;
use std::sync::Arc;

use vmm::{Golden, Machine};

use crate::verify::{BLOCK_BYTES, Finding, Location};
use crate::{ForensicDump, MismatchedBlock};

/// Lines of the guest's console that are kept.
const CONSOLE_LINES: usize = 200;
/// Most blocks and pages that are kept.
const MAX_MISMATCHED: usize = 64;
const _: () = assert!(BLOCK_BYTES == vmm::PAGE_BYTES, "one size for blocks and pages");

/// Blocks, pages and registers as they were found, beside the golden ones.
#[derive(Debug, Default)]
pub struct MismatchedBlocks {
    blocks: Vec<MismatchedBlock>,
    pages: Vec<MismatchedBlock>,
    /// In words, a line each; `None` when nothing was found while the machine stood still.
    registers: Option<String>,
}

impl MismatchedBlocks {
    /// Copies what findings name, and all registers, from a machine that stands still. Nothing
    /// without a finding.
    pub fn of(machine: &Machine, golden: &Arc<Golden>, findings: &[Finding]) -> Self {
        let mut mismatched = Self::default();
        if !findings.is_empty() {
            mismatched.registers = Some(registers(machine));
        }
        let locations = findings.iter().map(|finding| &finding.location);
        let mut locations: Vec<_> =
            locations.filter(|location| content(machine, location).is_some()).collect();
        locations.truncate(MAX_MISMATCHED);
        if locations.is_empty() {
            return mismatched;
        }
        // It has not run: it reads what every machine begins with.
        let original = Machine::fork(golden).ok();
        for location in locations {
            let Some(found) = content(machine, location) else { continue };
            let golden = original.as_ref().and_then(|original| content(original, location));
            match location {
                Location::Block { number } => {
                    mismatched.blocks.push(MismatchedBlock { location: *number, found, golden });
                }
                Location::Page { address } | Location::GoldenPage { address } => {
                    mismatched.pages.push(MismatchedBlock { location: *address, found, golden });
                }
                _ => {}
            }
        }
        mismatched
    }
}

/// What is at a location that has content; `None` where there is none or it cannot be read.
fn content(machine: &Machine, location: &Location) -> Option<Vec<u8>> {
    let mut bytes = vec![0; BLOCK_BYTES];
    match location {
        Location::Block { number } => {
            machine.read_disk(number.checked_mul(BLOCK_BYTES as u64)?, &mut bytes).ok()?;
        }
        Location::Page { address } | Location::GoldenPage { address } => {
            machine.read_memory(*address, &mut bytes).ok()?;
        }
        _ => return None,
    }
    Some(bytes)
}

/// Everything that is saved of a machine.
pub fn dump(machine: &Machine, mismatched: MismatchedBlocks) -> ForensicDump {
    let MismatchedBlocks { blocks, pages, registers } = mismatched;
    let console = machine.console().last_lines(CONSOLE_LINES).join("\n");
    ForensicDump { blocks, pages, console, state: state(machine, registers) }
}

/// Processors and devices, as far as KVM still says anything. `not_reset`: the registers, if
/// the caller has read them before the machine goes on.
fn state(machine: &Machine, not_reset: Option<String>) -> String {
    let mut text = match machine.state() {
        Ok(state) => format!("{state:#?}\n"),
        Err(error) => format!("not known: {error}\n"),
    };
    let held = machine.is_paused() || machine.pause().is_ok();
    if held && let Ok(differences) = machine.state_differences() {
        text.push_str("\nnot as captured, now that the machine is held:\n");
        for difference in &differences.0 {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{difference}");
        }
    }
    match not_reset {
        Some(registers) => {
            text.push_str("\nregisters when it was found:\n");
            text.push_str(&registers);
        }
        None if held => {
            text.push_str("\nregisters, now that the machine is held:\n");
            text.push_str(&self::registers(machine));
        }
        None => {}
    }
    text
}

/// A line for each register, as KVM has it and as it was captured.
fn registers(machine: &Machine) -> String {
    match machine.registers() {
        Ok(registers) => registers.iter().fold(String::new(), |mut text, register| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{register}");
            text
        }),
        Err(error) => format!("not known: {error}\n"),
    }
}
