//! The processor architecture: everything that another one would do otherwise.
//!
//! Code above this module takes these names from here and from nowhere else. A second architecture is
//! a folder beside `x86_64` that provides the same names.

/// Name and value of a part of the state, for people.
pub type Named = (String, String);

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    ArchVcpu, BootDataError, CAPABILITIES, CpuidTemplate, KeyboardController, MpState, RestoreKind,
    SetupHeader, VcpuImage, VcpuRole, VcpuState, VcpuStatus, VmIrqLine, VmState, copy_streaming,
    counting_loop, create_interrupt_controllers, host_tsc, install_msr_filter, layout, msr_list,
    reserve_pages, write_boot_data, write_tables,
};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("vmm runs on x86-64 only: another architecture needs a folder in vmm/src/arch");
