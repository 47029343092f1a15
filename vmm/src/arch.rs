//! The processor architecture: everything that another one would do otherwise.
//!
//! The rest of the crate takes these names from here and from nowhere else. The architecture is chosen
//! in this file alone. A second architecture is a folder beside `x86_64` that provides:
//!
//! | names | what they are |
//! | --- | --- |
//! | `layout` | Guest-physical address map: RAM ranges for a size, registers and interrupt lines of virtio devices, ports of the serial console and the checkpoint, longest command line. |
//! | `CheckedImage`, `ImageError`, `LoadedKernel`, `SetupHeader` | Kernel images: headers checked, the kernel written into memory, its entry point. |
//! | `write_boot_data`, `write_tables`, `BootDataError` | What a kernel, or a guest without a kernel, finds in memory at its first instruction. |
//! | `reserve_pages`, `close_side_doors`, `create_interrupt_controllers` | What a VM needs before its first vCPU. |
//! | `CpuidTemplate` | What a guest may know of the processor, equal on every host that a snapshot moves to. |
//! | `install_msr_filter` | From here on the guest writes only registers that a reset restores. |
//! | `ArchVcpu`, `VcpuRole`, `VcpuStatus`, `MpState` | A vCPU's descriptor: created, prepared for its first instruction, looked at. |
//! | `VcpuState`, `VcpuImage`, `RestoreKind`, `msr_list` | A vCPU's state, one table of groups: captured, read back, restored, compared, described, checked. |
//! | `VmState` | The state of interrupt controllers, timer and clock, one table of groups. |
//! | `HostIdentity` | What of a host a captured guest depends on beside CPUID. |
//! | `host_tsc` | The host's counter that the guest's runs by. |
//! | `VmIrqLine` | An interrupt line of the in-kernel interrupt controller. |
//! | `KeyboardController` | The platform device with which a guest resets the machine. |
//! | `copy_streaming` | A copy that passes by the caches. |
//! | `CAPABILITIES`, `counting_loop`, `page_writer`, `small_elf` | What a probe asks KVM for, and guests without a kernel. |
//! | `flip_interrupt_controller`, `ArchVcpu::flip_register`, `ArchVcpu::flip_msr` | Changes that no guest made, with feature `testing` only. |
//!
//! Nothing here uses a VM, a vCPU thread or a device: functions take the descriptors of
//! `kvm_ioctls` and guest memory.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    ArchVcpu, BootDataError, CAPABILITIES, CheckedImage, CpuidTemplate, HostIdentity, ImageError,
    KeyboardController, LoadedKernel, MpState, RestoreKind, SetupHeader, VcpuImage, VcpuRole,
    VcpuState, VcpuStatus, VmIrqLine, VmState, close_side_doors, copy_streaming, counting_loop,
    create_interrupt_controllers, host_tsc, install_msr_filter, layout, msr_list, page_writer,
    reserve_pages, small_elf, write_boot_data, write_tables,
};

#[cfg(all(target_arch = "x86_64", any(test, feature = "testing")))]
pub use x86_64::flip_interrupt_controller;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("vmm runs on x86-64 only: another architecture needs a folder in vmm/src/arch");

/// Name and value of a part of the state, for people.
pub type Named = (String, String);
