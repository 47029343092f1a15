//! State read back from KVM and from the devices, compared with what was captured.

use std::time::Instant;

use super::Difference;
use crate::arch::host_tsc;
use crate::devices::DeviceSet;
use crate::elapsed::{ElapsedBounds, ResetWindow};
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::mismatch::Mismatch;
use crate::snapshot::{Golden, ResetError};

/// A part of a machine's state that is not as it was captured.
pub type StateMismatch = Mismatch<Difference>;

/// What a comparison of one vCPU found.
pub struct VcpuReport {
    pub mismatches: Vec<StateMismatch>,
    /// How far the vCPU's TSC is ahead of the host's, less what it showed when it was captured: the
    /// same for all vCPUs whose counters run together.
    pub ahead: u64,
}

/// Compares a vCPU, which must be parked, on its thread.
pub fn vcpu(
    golden: &Golden,
    index: usize,
    vcpu: &mut Vcpu,
    reset: ResetWindow,
) -> Result<VcpuReport, KvmError> {
    let Some(image) = golden.vcpus.get(index) else {
        let part = Difference::Vcpu { index, part: "presence".into() };
        let mismatch = Mismatch::new(part, ("no such vCPU".into(), "there".into()));
        return Ok(VcpuReport { mismatches: vec![mismatch], ahead: 0 });
    };
    let before = Instant::now();
    let now = host_tsc();
    let state = vcpu.read_back(image, now, golden.vcpus.len() == 1)?;
    let bounds = ElapsedBounds { reset, read: (before, Instant::now()) };
    let tsc = if golden.tsc_offset_works { Some((bounds, vcpu.tsc_khz()? * 1000)) } else { None };
    let then = image.state();
    let found = then.compare(&state, tsc).into_iter();
    let mismatches = found.map(|one| one.map(|part| Difference::Vcpu { index, part })).collect();
    Ok(VcpuReport { mismatches, ahead: state.tsc().wrapping_sub(now).wrapping_sub(then.tsc()) })
}

/// Collects what was found on vCPUs, and compares the machine they belong to: interrupt controllers,
/// timer, clocks.
pub fn kvm(
    golden: &Golden,
    vm: &Vm,
    vcpus: Vec<VcpuReport>,
    reset: ResetWindow,
) -> Result<Vec<StateMismatch>, KvmError> {
    let ahead: Vec<u64> = vcpus.iter().map(|report| report.ahead).collect();
    let mut found: Vec<StateMismatch> =
        vcpus.into_iter().flat_map(|report| report.mismatches).collect();
    let before = Instant::now();
    let (state, tsc_is_stable) = vm.read_back()?;
    let bounds = ElapsedBounds { reset, read: (before, Instant::now()) };
    let machine = golden.vm.compare(&state, bounds).into_iter();
    found.extend(machine.map(|one| one.map(Difference::Machine)));
    // Where the host's counters differ, KVM corrects a vCPU's whenever it changes processors.
    if tsc_is_stable && ahead.windows(2).any(|pair| pair.first() != pair.last()) {
        let part = Difference::Machine("TSCs, which run apart");
        found.push(Mismatch::new(part, ("together".into(), format!("{ahead:?}"))));
    }
    Ok(found)
}

/// Compares devices: registers, queue positions, connections. Devices must be quiesced.
pub fn devices(golden: &Golden, devices: &DeviceSet) -> Result<Vec<StateMismatch>, ResetError> {
    let found = golden.devices.compare(&devices.capture()?).into_iter();
    Ok(found.map(|one| one.map(Difference::Device)).collect())
}
