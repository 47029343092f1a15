//! x86-64: Intel and AMD processors in long mode, on the interrupt controllers of a PC.

mod barrier;
mod boot;
mod copy;
mod cpuid;
mod guest_code;
mod host;
mod i8042;
mod irq;
mod lapic;
pub mod layout;
mod msr_filter;
mod msrs;
mod probe;
mod residue;
#[cfg(any(test, feature = "testing"))]
mod tamper;
mod tsc;
mod vcpu;
mod vcpu_state;
mod vm;
mod vm_state;

pub use boot::{
    BootDataError, CheckedImage, ImageError, LoadedKernel, SetupHeader, small_elf, write_boot_data,
    write_tables,
};
pub use copy::copy_streaming;
pub use cpuid::CpuidTemplate;
pub use guest_code::{counting_loop, page_writer};
pub use host::HostIdentity;
pub use i8042::KeyboardController;
pub use irq::VmIrqLine;
pub use msr_filter::install_msr_filter;
pub use msrs::msr_list;
pub use probe::CAPABILITIES;
#[cfg(any(test, feature = "testing"))]
pub use tamper::flip_interrupt_controller;
pub use tsc::host_tsc;
pub use vcpu::{ArchVcpu, MpState, VcpuRole, VcpuStatus};
pub use vcpu_state::{RestoreKind, VcpuImage, VcpuState};
pub use vm::{close_side_doors, create_interrupt_controllers, reserve_pages};
pub use vm_state::VmState;

use super::Named;
