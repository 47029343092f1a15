//! Everything KVM keeps about a vCPU, read out and put back.

use std::arch::x86_64::_rdtsc;

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR,
    KVM_VCPUEVENT_VALID_SMM, Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::SyncReg;

use super::vcpu::Vcpu;
use super::{KvmError, msrs, raw};

/// Everything KVM keeps about a vCPU that its guest can change or notice.
pub struct VcpuState {
    pub mp_state: kvm_mp_state,
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub events: kvm_vcpu_events,
    pub xsave: Box<kvm_xsave>,
    pub xcrs: kvm_xcrs,
    pub debug_regs: kvm_debugregs,
    pub lapic: Box<kvm_lapic_state>,
    /// All MSRs there are, the deadline last.
    pub msrs: Vec<kvm_msr_entry>,
    /// The guest's TSC when the machine stood still.
    pub tsc: u64,
}

/// What a reset writes, in the form the kernel takes: made once per machine.
pub struct VcpuImage {
    state: VcpuState,
    /// Values of [`msrs::WRITABLE`] MSRs.
    writable: Msrs,
}

/// The host's time-stamp counter, once for all vCPUs of a machine, so that theirs stay equal.
pub fn host_tsc() -> u64 {
    // SAFETY: RDTSC reads a counter and exists on every x86-64 processor.
    unsafe { _rdtsc() }
}

impl Vcpu {
    /// Reads everything. The vCPU must be parked: then no access of its guest is half done.
    /// `host_tsc` is a reading of the host's counter that all vCPUs share.
    pub fn capture(&self, wanted: &[u32], host_tsc: u64) -> Result<VcpuState, KvmError> {
        let fd = &self.fd;
        // First: it takes in INIT and SIPI interrupts that are on their way.
        let mp_state = fd.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
        let mut events = fd.get_vcpu_events().map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))?;
        events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING
            | KVM_VCPUEVENT_VALID_SHADOW
            | KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | KVM_VCPUEVENT_VALID_SMM;
        Ok(VcpuState {
            mp_state,
            regs: fd.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?,
            sregs: fd.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?,
            events,
            xsave: Box::new(fd.get_xsave().map_err(KvmError::ioctl("KVM_GET_XSAVE"))?),
            xcrs: fd.get_xcrs().map_err(KvmError::ioctl("KVM_GET_XCRS"))?,
            debug_regs: fd.get_debug_regs().map_err(KvmError::ioctl("KVM_GET_DEBUGREGS"))?,
            lapic: Box::new(fd.get_lapic().map_err(KvmError::ioctl("KVM_GET_LAPIC"))?),
            msrs: msrs::read(fd, wanted)?,
            tsc: raw::tsc_offset(fd)?.wrapping_add(host_tsc),
        })
    }

    /// Puts back everything a guest could have changed since `image` was captured on this vCPU.
    /// General registers, special registers and events travel in `kvm_run` and take effect when
    /// the vCPU is entered next, or with [`Self::settle`]. The vCPU must be parked.
    pub fn reset(&mut self, image: &VcpuImage, host_tsc: u64) -> Result<(), KvmError> {
        self.put_back(&image.state, &image.writable, host_tsc)
    }

    /// Gives a new vCPU the state of another one, all MSRs included.
    pub fn adopt(&mut self, image: &VcpuImage, host_tsc: u64) -> Result<(), KvmError> {
        self.put_back(&image.state, &msrs::collection(&image.state.msrs)?, host_tsc)
    }

    fn put_back(&mut self, state: &VcpuState, msrs: &Msrs, host_tsc: u64) -> Result<(), KvmError> {
        let fd = &self.fd;
        // An INIT or SIPI on its way would strike the golden state: reading takes it in, and what
        // it does to the registers is undone below.
        fd.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
        fd.set_mp_state(state.mp_state).map_err(KvmError::ioctl("KVM_SET_MP_STATE"))?;
        // Before the local APIC: its timer compares its deadline with this.
        raw::set_tsc_offset(fd, state.tsc.wrapping_sub(host_tsc))?;
        // XCR0 decides which parts of the next one are valid.
        fd.set_xcrs(&state.xcrs).map_err(KvmError::ioctl("KVM_SET_XCRS"))?;
        // SAFETY: no guest here may use features that need more than 4 KiB: the process never
        // asks for the permission that AMX needs.
        unsafe { fd.set_xsave(&state.xsave) }.map_err(KvmError::ioctl("KVM_SET_XSAVE"))?;
        fd.set_debug_regs(&state.debug_regs).map_err(KvmError::ioctl("KVM_SET_DEBUGREGS"))?;
        // The APIC's base address cannot have moved: its MSR is behind the filter.
        fd.set_lapic(&state.lapic).map_err(KvmError::ioctl("KVM_SET_LAPIC"))?;
        // After the local APIC, whose timer mode decides whether a deadline is taken.
        msrs::write(fd, msrs)?;
        self.stage_registers(state);
        Ok(())
    }

    /// Registers and events, in this order in the kernel: setting registers clears pending
    /// exceptions, so events come after them.
    fn stage_registers(&mut self, state: &VcpuState) {
        let staged = self.fd.sync_regs_mut();
        staged.regs = state.regs;
        staged.sregs = state.sregs;
        staged.events = state.events;
        self.fd.set_sync_dirty_reg(SyncReg::Register);
        self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        self.fd.set_sync_dirty_reg(SyncReg::VcpuEvents);
    }

    /// Frequency of the guest's TSC.
    pub fn tsc_khz(&self) -> Result<u64, KvmError> {
        self.fd.get_tsc_khz().map(u64::from).map_err(KvmError::ioctl("KVM_GET_TSC_KHZ"))
    }

    /// Makes staged registers take effect without running guest code.
    pub fn settle(&mut self) -> Result<(), KvmError> {
        self.fd.set_kvm_immediate_exit(1);
        let result = self.fd.run().map(|_| ());
        self.fd.set_kvm_immediate_exit(0);
        match result {
            // Interrupted, as asked; an application processor that was never started says EAGAIN.
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => Ok(()),
            Err(e) => Err(KvmError::ioctl("KVM_RUN")(e)),
            Ok(()) => Err(KvmError::Ioctl {
                ioctl: "KVM_RUN",
                source: std::io::Error::other("entered the guest although told not to"),
            }),
        }
    }
}

impl VcpuImage {
    /// Prepares `state` for being put back often.
    pub fn new(state: VcpuState) -> Result<Self, KvmError> {
        let writable: Vec<kvm_msr_entry> = state
            .msrs
            .iter()
            .copied()
            .filter(|entry| msrs::WRITABLE.contains(&entry.index))
            .collect();
        Ok(Self { writable: msrs::collection(&writable)?, state })
    }

    /// What it puts back.
    pub fn state(&self) -> &VcpuState {
        &self.state
    }
}
