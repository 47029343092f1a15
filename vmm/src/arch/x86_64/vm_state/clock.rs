//! kvmclock.

use kvm_bindings::{KVM_CLOCK_TSC_STABLE, kvm_clock_data};
use kvm_ioctls::VmFd;

use super::VmState;
use super::group::{VmComparison, VmGroup};
use crate::ioctl::{self, KvmError};
use crate::mismatch::Mismatch;

const HERTZ: u64 = 1_000_000_000;

pub const GROUP: VmGroup = VmGroup {
    read: |reader| {
        let clock = reader.vm.get_clock().map_err(KvmError::ioctl("KVM_GET_CLOCK"))?;
        reader.state.clock_ns = clock.clock;
        reader.tsc_is_stable = clock.flags & KVM_CLOCK_TSC_STABLE != 0;
        Ok(())
    },
    write,
    compare,
    describe: |state, named| named.push(("kvmclock".into(), format!("{} ns", state.clock_ns))),
};

fn write(vm: &VmFd, state: &VmState) -> Result<(), KvmError> {
    // Without the flag for real time, which would let the clock jump ahead by the time that passed
    // since the capture. The guest learns wall time from its next command.
    let clock = kvm_clock_data { clock: state.clock_ns, ..Default::default() };
    ioctl::call("KVM_SET_CLOCK", || vm.set_clock(&clock))
}

/// The clock runs on: it has to be within bounds.
fn compare(pair: &VmComparison<'_>) -> Option<Mismatch<&'static str>> {
    let (then, now) = (pair.then.clock_ns, pair.now.clock_ns);
    let words = || (pair.clock.expected(then), now.to_string());
    (!pair.clock.fits(then, now, HERTZ)).then(|| Mismatch::new("kvmclock", words()))
}
