//! A Linux microVM that lives in your process.
//!
//! The crate boots an x86-64 Linux kernel on KVM with a small, closed set of devices (a serial
//! console, and virtio-mmio block, vsock and entropy devices) and gives the embedding program
//! function calls where other monitors have a process, an API socket and files.
//!
//! [`Machine`] is the one type most programs hold. Dependencies inside the crate point one way:
//! `machine` uses `kvm`, `boot` and `devices`; those use `memory`; nothing points back.
#![warn(missing_docs)]

pub mod devices;
pub mod memory;
