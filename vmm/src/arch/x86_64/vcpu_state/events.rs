//! Pending exceptions, interrupts, NMIs and SMIs.

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR,
    KVM_VCPUEVENT_VALID_SMM,
};
use kvm_ioctls::SyncReg;

use super::group::{VcpuGroup, VcpuReader, Writer};
use crate::arch::x86_64::residue::Residue;
use crate::ioctl::{self, KvmError};
use crate::mismatch;

/// Everything is to be written, also what KVM takes only when it is told to.
const VALID: u32 = KVM_VCPUEVENT_VALID_NMI_PENDING
    | KVM_VCPUEVENT_VALID_SHADOW
    | KVM_VCPUEVENT_VALID_SIPI_VECTOR
    | KVM_VCPUEVENT_VALID_SMM;

pub const GROUP: VcpuGroup = VcpuGroup {
    listed: 3,
    read,
    write,
    compare: |pair, found| {
        let (then, now) = (&pair.then.events, &pair.now.events);
        let residue = Residue::of_events(then, now);
        let differs = mismatch::of_values("events".into(), then, now);
        found.extend(differs.map(|one| one.or_residue(residue.map(Residue::reason))));
    },
    describe: |state, named| named.push(("events".into(), format!("{:?}", state.events))),
};

fn read(reader: &mut VcpuReader<'_>) -> Result<(), KvmError> {
    let mut events = match &reader.left {
        Some((_, _, events)) => *events,
        None => reader.fd.get_vcpu_events().map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))?,
    };
    events.flags |= VALID;
    reader.state.events = events;
    Ok(())
}

fn write(writer: &mut Writer<'_>) -> Result<(), KvmError> {
    if writer.started() {
        // Reading takes in a system management interrupt that is on its way, which then is an event
        // that the staged ones replace. KVM would otherwise deliver it after the reset.
        ioctl::call("KVM_GET_VCPU_EVENTS", || writer.fd.get_vcpu_events())?;
        writer.fd.sync_regs_mut().events = writer.state.events;
        writer.fd.set_sync_dirty_reg(SyncReg::VcpuEvents);
        return Ok(());
    }
    let (fd, events) = (&writer.fd, &writer.state.events);
    ioctl::call("KVM_SET_VCPU_EVENTS", || fd.set_vcpu_events(events))
}
