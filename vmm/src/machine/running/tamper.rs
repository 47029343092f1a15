//! Changes behind a machine's back, for tests of its checks.

use std::fmt::Display;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::RunningMachine;
use crate::arch;
use crate::devices::block::{BLOCK_BYTES, Overlay};
use crate::integrity::Tamper;
use crate::machine::MachineError;
use crate::memory::PAGE_BYTES;
use crate::snapshot::ResetError;

fn refused(reason: &str) -> MachineError {
    MachineError::Tamper(reason.to_owned())
}

fn failed<E: Display>(error: E) -> MachineError {
    MachineError::Tamper(error.to_string())
}

impl RunningMachine {
    /// See [`Tamper`]. The machine must be parked.
    pub fn tamper(&self, tamper: Tamper) -> Result<(), MachineError> {
        match tamper {
            Tamper::Overlay { block } => self.flip_block(block, true),
            Tamper::Base { block } => self.flip_block(block, false),
            Tamper::CleanPage { address } | Tamper::HideDirtyPage { address } => {
                self.flip_byte(address)
            }
            Tamper::RestoredPage => self.flip_byte(self.restored_page()?),
            Tamper::Register => self.change_register(),
            Tamper::Msr => self.change_msr(),
            Tamper::InterruptController => self.change_redirection(),
            Tamper::QueueIndex => {
                if self.core.devices.corrupt().map_err(ResetError::from)? {
                    Ok(())
                } else {
                    Err(refused("no device has a queue"))
                }
            }
            Tamper::Golden { address } => {
                let golden = self.golden().ok_or(MachineError::NotCaptured)?;
                golden.memory.tamper(address).map_err(failed)
            }
        }
    }

    fn flip_block(&self, block: u64, dirty: bool) -> Result<(), MachineError> {
        let mut disk = self.core.devices.block().ok_or_else(|| refused("there is no disk"))?;
        let overlay: &mut Overlay = disk.overlay_mut();
        let number = usize::try_from(block).map_err(failed)?;
        if overlay.is_dirty(number) != dirty {
            let wanted = if dirty { "not dirty" } else { "dirty" };
            return Err(MachineError::Tamper(format!("block {block} is {wanted}")));
        }
        let at = number.saturating_mul(BLOCK_BYTES);
        match overlay.mapping_mut().bytes_mut().get_mut(at) {
            Some(byte) => {
                *byte ^= 1;
                Ok(())
            }
            None => Err(refused("the disk ends before it")),
        }
    }

    /// Through the host's mapping: neither KVM's log nor the devices' record hear of it.
    fn flip_byte(&self, address: u64) -> Result<(), MachineError> {
        let byte = self.core.vm.ram().get_host_address(GuestAddress(address)).map_err(failed)?;
        // SAFETY: the address lies in guest memory, which is mapped writable for as long as the VM
        // exists, and nothing runs.
        unsafe { byte.write_volatile(byte.read_volatile() ^ 1) };
        Ok(())
    }

    fn restored_page(&self) -> Result<u64, MachineError> {
        let golden = self.golden().ok_or(MachineError::NotCaptured)?;
        let restored = self.restored()?;
        let none = || refused("the last reset put nothing back");
        let run = restored.first().ok_or_else(none)?;
        let region = golden.memory.regions().get(run.region).ok_or_else(none)?;
        Ok(region.start + (run.first * PAGE_BYTES) as u64)
    }

    fn change_register(&self) -> Result<(), MachineError> {
        // What is staged would undo it.
        self.apply_staged_regs(0)?;
        for vcpu in self.core.parked().iter().take(1) {
            vcpu.flip_register()?;
        }
        Ok(())
    }

    fn change_msr(&self) -> Result<(), MachineError> {
        for vcpu in self.core.parked().iter().take(1) {
            vcpu.flip_msr()?;
        }
        Ok(())
    }

    fn change_redirection(&self) -> Result<(), MachineError> {
        Ok(arch::flip_interrupt_controller(self.core.vm.fd())?)
    }
}
