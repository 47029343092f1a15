//! What the vCPU is doing: running, halted, waiting to be started.

use super::group::{Group, Writer};
use crate::ioctl::{self, KvmError};
use crate::mismatch;

pub const GROUP: Group = Group {
    listed: 0,
    read: |reader| {
        let read = reader.fd.get_mp_state();
        reader.state.mp_state = read.map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
        Ok(())
    },
    write,
    compare: |pair, found| {
        let (then, now) = (&pair.then.mp_state, &pair.now.mp_state);
        found.extend(mismatch::of_values("run state".into(), then, now));
    },
    describe: |state, named| {
        named.push(("run state".into(), state.mp_state.mp_state.to_string()));
    },
};

fn write(writer: &mut Writer<'_>) -> Result<(), KvmError> {
    if !writer.started() {
        // An INIT or SIPI on its way would strike a processor that waits for one. Reading takes it
        // in, and the groups that follow undo what it does. For all others the staged events cancel
        // an INIT, and a SIPI without one has no effect.
        ioctl::call("KVM_GET_MP_STATE", || writer.fd.get_mp_state())?;
    }
    ioctl::call("KVM_SET_MP_STATE", || writer.fd.set_mp_state(writer.state.mp_state))
}
