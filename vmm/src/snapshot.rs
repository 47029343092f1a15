//! Golden states: captured once, put back as often as needed, shared by any number of machines.
//!
//! A [`Golden`] state is everything a guest can change or notice: memory, vCPUs, interrupt
//! controllers and clocks, devices with both halves of every vsock connection, and the disk. A
//! reset undoes what a guest has done since, in place: no process, no file, no new VM. It costs
//! what the dirty pages cost.
//!
//! The order of a reset, and why:
//!
//! 1. *stop*: every vCPU leaves the guest and completes the access it was in the middle of;
//!    devices let go of guest memory;
//! 2. *harvest*: KVM's dirty log, which does not know what devices wrote, united with the
//!    devices' own record; pages that nearly every command writes stay in that log for ever;
//! 3. *copy*: those pages get their golden content;
//! 4. *devices*: registers, queue positions, connections; then the disk's overlay is dropped;
//! 5. *machine*: interrupt controllers after devices, which may have raised interrupts; timer,
//!    clock;
//! 6. *vCPUs*: the local APICs after the I/O APIC, which may pass on what it holds.
//!
//! A step that fails leaves the machine poisoned: the harvested pages are remembered, nothing runs
//! until a later reset has succeeded in full.

mod compare;
pub mod file;
mod golden;
mod page_set;
mod pages;
pub(crate) mod registers;
mod rewind;
mod strategy;

pub(crate) use compare::state;
pub use compare::{Difference, Differences};
pub use golden::Golden;
pub(crate) use golden::Origin;
pub use page_set::PageSet;
pub(crate) use pages::Run;
pub use registers::Register;
pub(crate) use rewind::Rewinder;
#[cfg(test)]
pub(crate) use rewind::Sabotage;
pub use rewind::{ResetError, ResetParts, ResetReport};
pub use strategy::Strategy;
