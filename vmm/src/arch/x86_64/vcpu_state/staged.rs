//! Registers that travel in `kvm_run` (api.rst 5, `KVM_CAP_SYNC_REGS`): the vCPU takes them when it is
//! entered, which saves a call for each group.

use kvm_ioctls::SyncReg;

use super::group::Registers;
use crate::arch::ArchVcpu;
use crate::ioctl::KvmError;

impl ArchVcpu {
    /// Makes staged registers take effect without running guest code.
    ///
    /// # Errors
    ///
    /// KVM refuses the registers, or enters the guest although it was told not to.
    pub fn apply_staged_regs(&mut self) -> Result<(), KvmError> {
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

    /// Applies staged registers and reads what the vCPU then has, from `kvm_run` where KVM was seen
    /// to leave it there.
    pub(super) fn apply_and_read(&mut self) -> Result<Registers, KvmError> {
        match self.leaves_registers {
            Some(true) => self.apply_and_leave(),
            Some(false) => {
                self.apply_staged_regs()?;
                self.registers()
            }
            None => {
                self.apply_staged_regs()?;
                // What was staged still lies there: KVM must be seen to write over it.
                let staged = self.fd.sync_regs_mut();
                staged.regs.rax = !staged.regs.rax;
                staged.sregs.cr2 = !staged.sregs.cr2;
                staged.events.flags = !staged.events.flags;
                let left = self.apply_and_leave();
                let read = self.registers()?;
                self.leaves_registers = Some(left.is_ok_and(|left| left == read));
                Ok(read)
            }
        }
    }

    fn apply_and_leave(&mut self) -> Result<Registers, KvmError> {
        const ALL: [SyncReg; 3] = [SyncReg::Register, SyncReg::SystemRegister, SyncReg::VcpuEvents];
        for part in ALL {
            self.fd.set_sync_valid_reg(part);
        }
        let applied = self.apply_staged_regs();
        // Every exit of a running guest would pay for it.
        for part in ALL {
            self.fd.clear_sync_valid_reg(part);
        }
        applied?;
        let left = self.fd.sync_regs();
        Ok((left.regs, left.sregs, left.events))
    }

    fn registers(&self) -> Result<Registers, KvmError> {
        let fd = &self.fd;
        let events = fd.get_vcpu_events().map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))?;
        let regs = fd.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?;
        let sregs = fd.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?;
        Ok((regs, sregs, events))
    }
}
