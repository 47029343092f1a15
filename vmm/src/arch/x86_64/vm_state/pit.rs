//! The programmable interval timer.

use kvm_bindings::kvm_pit_state2;

use super::VmState;
use super::group::VmGroup;
use crate::arch::Named;
use crate::ioctl::{self, KvmError};
use crate::mismatch;

pub const GROUP: VmGroup = VmGroup {
    read: |reader| {
        reader.state.pit = reader.vm.get_pit2().map_err(KvmError::ioctl("KVM_GET_PIT2"))?;
        Ok(())
    },
    write: |vm, state| ioctl::call("KVM_SET_PIT2", || vm.set_pit2(&state.pit)),
    compare: |pair| {
        let (then, now) = (guest_visible(pair.then.pit), guest_visible(pair.now.pit));
        mismatch::of_values("PIT", &then, &now)
    },
    describe,
};

/// The state without the host's time of the last load.
fn guest_visible(mut pit: kvm_pit_state2) -> kvm_pit_state2 {
    for channel in &mut pit.channels {
        channel.count_load_time = 0;
    }
    pit
}

fn describe(state: &VmState, named: &mut Vec<Named>) {
    let pit = guest_visible(state.pit);
    for (index, channel) in pit.channels.iter().enumerate() {
        named.push((format!("PIT channel {index}"), format!("{channel:?}")));
    }
    named.push(("PIT flags".into(), format!("{:#x}", pit.flags)));
}
