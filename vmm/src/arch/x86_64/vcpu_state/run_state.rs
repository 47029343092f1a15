//! What the vCPU is doing: running, halted, waiting to be started.

use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, kvm_mp_state};

use super::group::{VcpuGroup, Writer};
use crate::arch::x86_64::residue::Residue;
use crate::ioctl::{self, KvmError};
use crate::mismatch;

pub const GROUP: VcpuGroup = VcpuGroup {
    listed: 0,
    read: |reader| {
        let read = reader.fd.get_mp_state();
        reader.state.mp_state = read.map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
        Ok(())
    },
    write,
    compare: |pair, found| {
        let (then, now) = (&pair.then.mp_state, &pair.now.mp_state);
        let residue = Residue::of_run_state(*then, *now);
        let differs = mismatch::of_values("run state".into(), then, now);
        found.extend(differs.map(|one| one.or_residue(residue.map(Residue::reason))));
    },
    describe: |state, named| {
        named.push(("run state".into(), state.mp_state.mp_state.to_string()));
    },
};

fn write(writer: &mut Writer<'_>) -> Result<(), KvmError> {
    let captured = writer.state.mp_state.mp_state;
    if captured == KVM_MP_STATE_RUNNABLE && writer.alone() {
        // An INIT on its way goes with the events, and a processor that runs ignores a SIPI.
        return set(writer, captured);
    }
    // Reading takes in an INIT or SIPI that is on its way, and the groups that follow undo what it
    // does. It also shows a halted processor with a wake-up on its way (`pv_unhalted`), which a guest
    // causes with a remote read, as one that runs.
    let now = get(writer)?;
    if captured == KVM_MP_STATE_HALTED {
        if now == KVM_MP_STATE_HALTED {
            return Ok(());
        }
        // Kernels since Linux 6.14 take such a wake-up back when a processor is set to run. With older
        // ones the golden guest wakes up once for nothing, and the comparison says so.
        set(writer, KVM_MP_STATE_RUNNABLE)?;
    }
    set(writer, captured)
}

fn get(writer: &Writer<'_>) -> Result<u32, KvmError> {
    let state = ioctl::call("KVM_GET_MP_STATE", || writer.fd.get_mp_state())?;
    Ok(state.mp_state)
}

fn set(writer: &Writer<'_>, mp_state: u32) -> Result<(), KvmError> {
    ioctl::call("KVM_SET_MP_STATE", || writer.fd.set_mp_state(kvm_mp_state { mp_state }))
}
