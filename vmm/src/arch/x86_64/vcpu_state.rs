//! Everything KVM keeps about a vCPU, read out and put back.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM, Msrs,
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::SyncReg;
use serde::{Deserialize, Serialize};

use super::vcpu::ArchVcpu;
use super::{msrs, tsc};
use crate::ioctl::KvmError;

/// Everything KVM keeps about a vCPU that its guest can change or notice.
#[derive(Serialize, Deserialize)]
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

type Registers = (kvm_regs, kvm_sregs, kvm_vcpu_events);

/// What a reset writes, in the form the kernel takes: made once per golden state.
pub struct VcpuImage {
    state: VcpuState,
    /// Every MSR, for reading them back.
    all: Msrs,
    /// The TSC, and every other.
    all_and_tsc: Msrs,
    /// Values of [`msrs::WRITABLE`] MSRs.
    writable: Msrs,
    /// The same, and the TSC: for a machine's only vCPU.
    writable_and_tsc: Msrs,
    /// The timer's deadline, if one was set.
    deadline: Option<Msrs>,
}

/// How a vCPU's TSC goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TscBy {
    /// With the other MSRs: saves a call, but every vCPU gets a time of its own.
    Msr,
    /// Through the offset to the host's counter, equal for all vCPUs.
    Offset,
}

impl ArchVcpu {
    /// Reads everything. The vCPU must be parked: then no access of its guest is half done.
    /// `host_tsc` is a reading of the host's counter that all vCPUs share.
    pub fn capture(&self, wanted: &[u32], host_tsc: u64) -> Result<VcpuState, KvmError> {
        // First: it takes in INIT and SIPI interrupts that are on their way.
        let mp_state = self.mp_state()?;
        let fd = &self.fd;
        let registers = self.registers()?;
        let tsc = tsc::offset(fd)?.wrapping_add(host_tsc);
        self.read(mp_state, registers, msrs::read(fd, wanted)?, tsc)
    }

    /// Reads everything that `image` holds, as [`Self::capture`] does, in as few calls as there can
    /// be: each makes KVM load the vCPU. Registers that were put back take effect before. The vCPU
    /// must be parked, and this its thread. `alone`: the machine has no other.
    pub fn read_back(
        &mut self,
        image: &VcpuImage,
        host_tsc: u64,
        alone: bool,
    ) -> Result<VcpuState, KvmError> {
        let registers = self.settle_and_read()?;
        let mp_state = self.mp_state()?;
        if !alone {
            // To the tick: all vCPUs are to agree.
            let tsc = tsc::offset(&self.fd)?.wrapping_add(host_tsc);
            let msrs = msrs::read_prepared(&self.fd, &image.all)?;
            return self.read(mp_state, registers, msrs, tsc);
        }
        let mut msrs = msrs::read_prepared(&self.fd, &image.all_and_tsc)?;
        let tsc = match msrs.first() {
            Some(first) if first.index == msrs::TSC => msrs.remove(0).data,
            _ => return Err(KvmError::Msr(msrs::TSC)),
        };
        self.read(mp_state, registers, msrs, tsc)
    }

    fn read(
        &self,
        mp_state: kvm_mp_state,
        (regs, sregs, mut events): Registers,
        msrs: Vec<kvm_msr_entry>,
        tsc: u64,
    ) -> Result<VcpuState, KvmError> {
        let fd = &self.fd;
        events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING
            | KVM_VCPUEVENT_VALID_SHADOW
            | KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | KVM_VCPUEVENT_VALID_SMM;
        Ok(VcpuState {
            mp_state,
            regs,
            sregs,
            events,
            xsave: Box::new(fd.get_xsave().map_err(KvmError::ioctl("KVM_GET_XSAVE"))?),
            xcrs: fd.get_xcrs().map_err(KvmError::ioctl("KVM_GET_XCRS"))?,
            debug_regs: fd.get_debug_regs().map_err(KvmError::ioctl("KVM_GET_DEBUGREGS"))?,
            lapic: Box::new(fd.get_lapic().map_err(KvmError::ioctl("KVM_GET_LAPIC"))?),
            msrs,
            tsc,
        })
    }

    fn mp_state(&self) -> Result<kvm_mp_state, KvmError> {
        self.fd.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))
    }

    fn registers(&self) -> Result<Registers, KvmError> {
        let fd = &self.fd;
        let events = fd.get_vcpu_events().map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))?;
        let regs = fd.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?;
        let sregs = fd.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?;
        Ok((regs, sregs, events))
    }

    /// See [`tsc::can_be_moved`].
    pub fn tsc_can_be_moved(&self) -> Result<bool, KvmError> {
        tsc::can_be_moved(&self.fd)
    }

    /// Puts back everything a guest could have changed since `image` was captured on this vCPU.
    /// General registers, special registers and events travel in `kvm_run` and take effect when
    /// the vCPU is entered next, or with [`Self::settle`]. The vCPU must be parked. `alone`: the
    /// machine has no other.
    pub fn reset(&mut self, image: &VcpuImage, host_tsc: u64, alone: bool) -> Result<(), KvmError> {
        if alone {
            self.put_back(image, &image.writable_and_tsc, host_tsc, TscBy::Msr)
        } else {
            self.put_back(image, &image.writable, host_tsc, TscBy::Offset)
        }
    }

    /// Gives a new vCPU the state of another one, all MSRs included.
    pub fn adopt(&mut self, image: &VcpuImage, host_tsc: u64) -> Result<(), KvmError> {
        // KVM takes the local APIC's registers in the form of the mode the APIC is in.
        self.fd.set_sregs(&image.state.sregs).map_err(KvmError::ioctl("KVM_SET_SREGS"))?;
        self.put_back(image, &msrs::collection(&image.state.msrs)?, host_tsc, TscBy::Offset)
    }

    fn put_back(
        &mut self,
        image: &VcpuImage,
        msrs: &Msrs,
        host_tsc: u64,
        tsc_by: TscBy,
    ) -> Result<(), KvmError> {
        let fd = &self.fd;
        let state = &image.state;
        let started =
            matches!(state.mp_state.mp_state, KVM_MP_STATE_RUNNABLE | KVM_MP_STATE_HALTED);
        if !started {
            // An INIT or SIPI on its way would strike a processor that waits for one. Reading
            // takes it in, and what it does is undone below. For all others the staged events
            // cancel an INIT, and a SIPI without one has no effect.
            fd.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
        }
        fd.set_mp_state(state.mp_state).map_err(KvmError::ioctl("KVM_SET_MP_STATE"))?;
        // XCR0 decides which parts of the next one are valid.
        fd.set_xcrs(&state.xcrs).map_err(KvmError::ioctl("KVM_SET_XCRS"))?;
        // SAFETY: no guest here may use features that need more than 4 KiB: the process never
        // asks for the permission that AMX needs.
        unsafe { fd.set_xsave(&state.xsave) }.map_err(KvmError::ioctl("KVM_SET_XSAVE"))?;
        fd.set_debug_regs(&state.debug_regs).map_err(KvmError::ioctl("KVM_SET_DEBUGREGS"))?;
        // The TSC and the deadline go back before the local APIC: setting that starts its timer
        // again, and a deadline that has passed would interrupt the golden state.
        if tsc_by == TscBy::Offset {
            tsc::set_offset(fd, state.tsc.wrapping_sub(host_tsc))?;
        }
        msrs::write(fd, msrs)?;
        // The APIC's base address cannot have moved: its MSR is behind the filter.
        fd.set_lapic(&state.lapic).map_err(KvmError::ioctl("KVM_SET_LAPIC"))?;
        // Once more after the local APIC: if the guest had taken the timer out of deadline mode,
        // the first one was ignored.
        if let Some(deadline) = &image.deadline {
            msrs::write(fd, deadline)?;
        }
        if started {
            self.stage_registers(&image.state);
            return Ok(());
        }
        // Such a processor does not look at what is staged until it has been started, and must not
        // then.
        fd.set_sregs(&state.sregs).map_err(KvmError::ioctl("KVM_SET_SREGS"))?;
        fd.set_regs(&state.regs).map_err(KvmError::ioctl("KVM_SET_REGS"))?;
        fd.set_vcpu_events(&state.events).map_err(KvmError::ioctl("KVM_SET_VCPU_EVENTS"))
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

    /// Frequency of the guest's TSC, asked for once: only the host could change it.
    pub fn tsc_khz(&self) -> Result<u64, KvmError> {
        if let Some(known) = self.tsc_khz.get() {
            return Ok(*known);
        }
        let khz = self.fd.get_tsc_khz().map_err(KvmError::ioctl("KVM_GET_TSC_KHZ"))?;
        Ok(*self.tsc_khz.get_or_init(|| u64::from(khz)))
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

    /// Settles, and has KVM leave the registers it then has in `kvm_run`.
    fn settle_and_read(&mut self) -> Result<Registers, KvmError> {
        match self.leaves_registers {
            Some(true) => self.settle_and_leave(),
            Some(false) => {
                self.settle()?;
                self.registers()
            }
            None => {
                self.settle()?;
                // What was staged still lies there: KVM must be seen to write over it.
                let staged = self.fd.sync_regs_mut();
                staged.regs.rax = !staged.regs.rax;
                staged.sregs.cr2 = !staged.sregs.cr2;
                staged.events.flags = !staged.events.flags;
                let left = self.settle_and_leave();
                let read = self.registers()?;
                self.leaves_registers = Some(left.is_ok_and(|left| left == read));
                Ok(read)
            }
        }
    }

    fn settle_and_leave(&mut self) -> Result<Registers, KvmError> {
        const ALL: [SyncReg; 3] = [SyncReg::Register, SyncReg::SystemRegister, SyncReg::VcpuEvents];
        for part in ALL {
            self.fd.set_sync_valid_reg(part);
        }
        let settled = self.settle();
        // Every exit of a running guest would pay for it.
        for part in ALL {
            self.fd.clear_sync_valid_reg(part);
        }
        settled?;
        let left = self.fd.sync_regs();
        Ok((left.regs, left.sregs, left.events))
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
        let mut tsc_and_all = vec![kvm_msr_entry { index: msrs::TSC, ..Default::default() }];
        tsc_and_all.extend_from_slice(&state.msrs);
        let mut with_tsc = msrs::tsc(state.tsc).to_vec();
        with_tsc.extend_from_slice(&writable);
        let deadline = writable
            .iter()
            .find(|entry| entry.index == msrs::TSC_DEADLINE && entry.data != 0)
            .map(|entry| msrs::collection(&[*entry]))
            .transpose()?;
        Ok(Self {
            all: msrs::collection(&state.msrs)?,
            all_and_tsc: msrs::collection(&tsc_and_all)?,
            writable: msrs::collection(&writable)?,
            writable_and_tsc: msrs::collection(&with_tsc)?,
            deadline,
            state,
        })
    }

    /// What it puts back.
    pub fn state(&self) -> &VcpuState {
        &self.state
    }
}
