//! Rights of the process.

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{ConfineError, step};

/// No new privileges, and no copy of this memory on a disk or in a debugger.
pub fn limit() -> Result<(), ConfineError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    step("core dumps", rustix::process::setrlimit(Resource::Core, none))?;
    let undumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    step("hide memory", undumpable)?;
    step("no new privileges", rustix::thread::set_no_new_privs(true))
}

/// Drops every capability, also those that a program could get back. Returns what is left.
///
/// An agent that runs as root still reads and writes what belongs to root.
pub fn drop_capabilities() -> Result<u64, ConfineError> {
    for capability in CapabilitySet::all() {
        // Refused without the right to, and then nothing can be got back either.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    step("drop capabilities", rustix::thread::set_capabilities(None, none))?;
    let left = step("look at capabilities", rustix::thread::capabilities(None))?;
    Ok((left.effective | left.permitted | left.inheritable).bits())
}
