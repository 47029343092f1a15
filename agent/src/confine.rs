//! What the serving agent gives up once it has what it needs, so that an attacker who breaks out of a
//! machine into this process finds little to use: no new program, no process, no other process's
//! memory, no privileges, no files but its own.
//!
//! Five layers, from the kernel's point of view independent of each other:
//!
//! - *rights*: no new privileges, no capabilities, no core dump, no dump by a debugger.
//! - *files*: Landlock, where the kernel has it: the state directory may be written, the image and
//!   the system's configuration read, and nothing else exists.
//! - *calls*: only the system calls of one list are made; those that no serving agent makes by mistake end
//!   the process, others are refused.
//! - *vCPU threads*: what runs beside a guest may call KVM, handle memory and wake threads; all else
//!   is refused.
//! - *other threads*: those of the stores have files and nothing else, those that look after machines
//!   have no sockets.
//!
//! Everything here holds for the calling thread and those it starts later: call [`confine`] before
//! there are others.

mod allowed;
mod calls;
mod files;
mod links;
mod possible;
mod rights;
mod threads;

use serde::Serialize;
use thiserror::Error;
use tracing::warn;

pub use files::{Files, Landlock, NEWEST_VERSION as NEWEST_LANDLOCK};
pub use possible::{LandlockHere, Possible, possible};
pub use threads::{ThreadKind, enter};

/// Why the agent could not be confined. It does not serve then.
#[derive(Debug, Error)]
#[error("the agent could not confine itself ({step}: {detail}); its kernel must have seccomp")]
pub struct ConfineError {
    step: &'static str,
    detail: String,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// No program can give this process more rights than it has.
    pub no_new_privileges: bool,
    /// Capabilities that are left; none.
    pub capabilities: u64,
    /// How far files are out of reach.
    pub landlock: Landlock,
    /// Checks of memory and disk can read this process's page tables, also as an ordinary user.
    pub page_tables: bool,
    /// Dangerous system calls end the process.
    pub system_calls: bool,
    /// Threads of vCPUs have a filter of their own.
    pub vcpu_threads: bool,
    /// Threads of the stores have filters of their own.
    pub store_threads: bool,
    /// Threads that make and reset machines have a filter of their own.
    pub machine_threads: bool,
}

/// Gives up what a serving agent does not need. `files` are the only ones it will reach.
pub fn confine(files: &Files) -> Result<InForce, ConfineError> {
    // While the process still may: its checks of machines read them for as long as it runs.
    let page_tables = vmm::open_page_tables();
    if let Err(error) = &page_tables {
        warn!(
            %error,
            "the page tables of this process cannot be read: a page that was written past every log \
             is only found in the course of many resets"
        );
    }
    rights::limit()?;
    let landlock = files::restrict(files)?;
    let capabilities = rights::drop_capabilities()?;
    calls::install(&calls::process()?)?;
    calls::install(&[allowed::filter()?])?;
    // Compiled here, so that a thread has nothing left to fail at.
    let vcpu_threads = calls::guard_vcpu_threads()?;
    let machine_threads = threads::guard()?;
    Ok(InForce {
        no_new_privileges: true,
        capabilities,
        landlock,
        page_tables: page_tables.is_ok(),
        system_calls: true,
        vcpu_threads,
        store_threads: true,
        machine_threads,
    })
}

fn step<T, E: ToString>(step: &'static str, done: Result<T, E>) -> Result<T, ConfineError> {
    done.map_err(|error| ConfineError { step, detail: error.to_string() })
}

#[cfg(test)]
mod tests;
