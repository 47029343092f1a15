//! A Linux microVM that lives in your process.
//!
//! The crate boots an x86-64 Linux kernel on KVM with a small, closed set of devices (a serial
//! console, and virtio-mmio block, vsock and entropy devices) and gives the embedding program
//! function calls where other monitors have a process, an API socket and files.
//!
//! [`Machine`] is the one type most programs hold:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kernel = vmm::KernelImage::open("vmlinux".as_ref())?;
//! let config = vmm::MachineConfig::builder(kernel)
//!     .cmdline("console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw")
//!     .disk(vmm::DiskImage::open("rootfs.ext4".as_ref())?)
//!     .build()?;
//! let machine = vmm::Machine::create(config)?;
//! // Listen first: the guest may call as soon as it runs.
//! let listener = machine.vsock().listen(52000)?;
//! machine.boot()?;
//! let _stream = listener.accept(Some(Duration::from_secs(10)))?;
//! machine.shutdown();
//! # Ok(())
//! # }
//! ```
//!
//! A captured machine goes back to its golden state in place, as often as one likes, and more machines
//! start from it. This example runs on any `/dev/kvm`, with a guest of a few dozen bytes:
//!
//! ```
//! use std::time::Duration;
//! use vmm::{Machine, MachineConfig, Strategy, micro};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A guest that writes to 64 pages, reaches its checkpoint, and begins anew.
//! let config = MachineConfig::builder(micro::kernel(64)?).memory_mib(64).build()?;
//! let machine = Machine::create(config)?;
//! machine.boot_paused()?;
//! let golden = machine.capture()?;
//!
//! machine.resume()?;
//! machine.wait_checkpoint(0, Duration::from_secs(20)).ok_or("the guest does not run")?;
//! machine.pause()?;
//! assert!(!machine.differences()?.is_empty());
//! let report = machine.reset(Strategy::CopyBack)?;
//! assert!(report.dirty_pages >= 64);
//! assert!(machine.differences()?.is_empty(), "every bit is as it was captured");
//!
//! let fork = Machine::fork(&golden)?;
//! assert!(fork.differences()?.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! Sockets need no boot protocol of their own. The host listens before the guest can call, and connects to
//! ports of the guest; streams implement [`Read`](std::io::Read) and [`Write`](std::io::Write):
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use std::net::Shutdown;
//! use std::time::Duration;
//!
//! # fn talk(machine: &vmm::Machine) -> Result<(), Box<dyn std::error::Error>> {
//! let limit = Duration::from_secs(10);
//! let listener = machine.vsock().listen(52000)?;
//! machine.boot()?;
//! // What `socat - VSOCK-CONNECT:2:52000` in the guest opens.
//! let mut called = listener.accept(Some(limit))?;
//! called.set_read_timeout(Some(limit));
//! called.write_all(b"hello\n")?;
//! called.shutdown(Shutdown::Write)?;
//! let mut answer = String::new();
//! called.read_to_string(&mut answer)?;
//!
//! // And the other way, where a program of the guest listens on port 7.
//! let mut stream = machine.vsock().connect(7, limit)?;
//! stream.write_all(&[7])?;
//! # Ok(())
//! # }
//! ```
//!
//! No caller waits for ever for a guest that is silent or gone. This runs on any `/dev/kvm`:
//!
//! ```
//! use std::time::Duration;
//! use vmm::{Machine, MachineConfig, VsockError, micro};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = MachineConfig::builder(micro::kernel(1)?).memory_mib(64).build()?;
//! let machine = Machine::create(config)?;
//! let listener = machine.vsock().listen(52000)?;
//! assert_eq!(machine.vsock().listen(52000).err(), Some(VsockError::PortInUse(52000)));
//!
//! machine.boot()?;
//! machine.wait_checkpoint(0, Duration::from_secs(20)).ok_or("the guest does not run")?;
//! // This guest has no driver: it neither calls nor answers.
//! assert_eq!(listener.accept(Some(Duration::ZERO)).err(), Some(VsockError::TimedOut));
//! assert_eq!(machine.vsock().connect(7, Duration::ZERO).err(), Some(VsockError::TimedOut));
//!
//! machine.shutdown();
//! assert!(matches!(listener.accept(None), Err(VsockError::MachineStopped(_))));
//! # Ok(())
//! # }
//! ```
//!
//! Dependencies inside the crate point one way: `machine`, `integrity`, `snapshot`; below them `boot`,
//! `devices` and `kvm`, which do not use each other; below these `arch`, all that is x86-64; at the
//! bottom `memory` and the error of KVM's calls.
#![warn(missing_docs, clippy::missing_errors_doc)]
// What is public for tests and fuzz targets speaks of types that only this crate needs to name.
#![cfg_attr(not(any(test, feature = "fuzzing")), warn(unnameable_types))]

mod arch;
mod boot;
mod devices;
mod elapsed;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod integrity;
mod ioctl;
mod kernel_call;
mod kvm;
mod machine;
mod memory;
pub mod micro;
mod mismatch;
mod probe;
mod snapshot;

pub use arch::{MpState, VcpuStatus};
pub use boot::{BootDataError, BootError, CommandLineError, KernelError, KernelImage};
pub use devices::block::{DiskError, DiskImage};
pub use devices::virtio::DeviceFault;
#[cfg(feature = "tokio")]
pub use devices::vsock::AsyncVsockStream;
pub use devices::vsock::{VsockCounters, VsockError, VsockHost, VsockListener, VsockStream};
pub use devices::{ConsoleSnapshot, DeviceStateError, Mark};
#[cfg(any(test, feature = "testing"))]
pub use integrity::Tamper;
pub use integrity::{
    Finding, FindingSource, IntegrityParts, IntegrityPlan, IntegrityReport, Location,
};
pub use kernel_call::KernelCall;
pub use kvm::{DirtyTracking, KvmError, at_vcpu_thread_start};
pub use machine::{
    BootTimings, ConfigError, Machine, MachineConfig, MachineConfigBuilder, MachineError,
    MachineState, StopReason,
};
pub use memory::{MemoryError, PAGE_BYTES, open_page_tables};
pub use probe::{Capability, HostProbe, KvmKind, probe};
pub use snapshot::file as snapshot_file;
pub use snapshot::{
    Difference, Differences, Golden, PageSet, Register, ResetError, ResetParts, ResetReport,
    Strategy,
};
