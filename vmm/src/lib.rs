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
//! Dependencies inside the crate point one way: `machine`, `integrity`, `snapshot`; below them `boot`,
//! `devices` and `kvm`, which do not use each other; below these `arch`, all that is x86-64; at the
//! bottom `memory` and the error of KVM's calls.
#![warn(missing_docs)]
// The fuzz targets' parts speak of types that only this crate needs to name.
#![cfg_attr(not(feature = "fuzzing"), warn(unnameable_types))]

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
pub use memory::MemoryError;
pub use probe::{Capability, HostProbe, KvmKind, probe};
pub use snapshot::file as snapshot_file;
pub use snapshot::{
    Difference, Differences, Golden, PageSet, Register, ResetError, ResetParts, ResetReport,
    Strategy,
};
