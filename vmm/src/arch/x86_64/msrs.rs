//! Model-specific registers: which there are, which a guest may write, which a reset puts back.
//!
//! The state space is closed, not listed: once a golden state exists, a filter that denies by
//! default lets the guest write only [`WRITABLE`] MSRs, and a reset puts back exactly those. What
//! the guest cannot write cannot differ. Two kinds of access pass by the filter: the x2APIC
//! registers, which are part of the local APIC's state, and `SWAPGS`, whose MSR is writable.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};

use crate::ioctl::{self, KvmError};

/// Deadline of the local APIC's timer, in TSC ticks (Intel SDM volume 3, "TSC-Deadline Mode").
pub const TSC_DEADLINE: u32 = 0x6e0;
/// The time-stamp counter. See [`tsc`].
pub const TSC: u32 = 0x10;
/// Further away than any counter KVM could take for the one before: days.
const FAR_AWAY: u64 = 1 << 52;
/// Commands rather than state: writing one makes KVM write the wall clock into guest memory.
const KVM_WALL_CLOCKS: [u32; 2] = [0x11, 0x4b56_4d00];

/// Hyper-V's synthetic MSRs, some of which are clocks of the host. The guest is not told of them and
/// they are behind the filter.
const HYPER_V: std::ops::Range<u32> = 0x4000_0000..0x4000_1000;

/// What a guest may write once its golden state is captured (Intel SDM volume 4; AMD APM volume
/// 2), so what a reset writes back. The deadline comes last: it is compared with the TSC and
/// belongs to a timer whose mode is part of the local APIC.
pub const WRITABLE: [u32; 17] = [
    0x48,        // SPEC_CTRL
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
    0x1a0,       // MISC_ENABLE
    0x1d9,       // DEBUGCTL
    0xda0,       // XSS
    0xc000_0080, // EFER
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // FMASK
    0xc000_0100, // FS_BASE
    0xc000_0101, // GS_BASE
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
    TSC_DEADLINE,
];
/// Writable commands that hold no state: PRED_CMD and FLUSH_CMD.
const WRITABLE_COMMANDS: [u32; 2] = [0x49, 0x10b];

/// Blocks of MSR numbers that exist: Intel's, AMD's two, KVM's.
const BLOCKS: [(u32, u32); 4] =
    [(0, 0x2000), (0xc000_0000, 0x2000), (0xc001_0000, 0x2000), (0x4b56_4d00, 0x100)];

/// Every MSR of which KVM says that it is state, without those that are not put back by writing
/// them.
pub fn msr_list(kvm: &Kvm) -> Result<Vec<u32>, KvmError> {
    let list = kvm.get_msr_index_list().map_err(KvmError::ioctl("KVM_GET_MSR_INDEX_LIST"))?;
    let mut list: Vec<u32> = list
        .as_slice()
        .iter()
        .copied()
        .filter(|msr| *msr != TSC && !KVM_WALL_CLOCKS.contains(msr) && !HYPER_V.contains(msr))
        .collect();
    list.sort_unstable_by_key(|msr| (*msr == TSC_DEADLINE, *msr));
    Ok(list)
}

/// Two writes that put the TSC to `value`. KVM takes a write that moves the counter by less than a
/// second for an attempt to keep vCPUs in step, and ignores it; a write to somewhere far away in
/// between makes it take the second one at its word.
pub fn tsc(value: u64) -> [kvm_msr_entry; 2] {
    [value ^ FAR_AWAY, value].map(|data| kvm_msr_entry { index: TSC, data, ..Default::default() })
}

/// Reads those of `wanted` that this vCPU has.
pub fn read(vcpu: &VcpuFd, wanted: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut found = Vec::with_capacity(wanted.len());
    let mut rest = wanted;
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|index| kvm_msr_entry { index: *index, ..Default::default() })
            .collect();
        let mut msrs = collection(&entries)?;
        let count = vcpu.get_msrs(&mut msrs).map_err(KvmError::ioctl("KVM_GET_MSRS"))?;
        found.extend_from_slice(msrs.as_slice().get(..count).unwrap_or_default());
        // KVM stops at the first MSR this vCPU does not have: go on behind it.
        rest = rest.get(count + 1..).unwrap_or_default();
    }
    Ok(found)
}

/// Reads all of `wanted`, or those before the first one that this vCPU does not have.
pub fn read_prepared(vcpu: &VcpuFd, wanted: &Msrs) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut msrs = wanted.clone();
    let count = vcpu.get_msrs(&mut msrs).map_err(KvmError::ioctl("KVM_GET_MSRS"))?;
    Ok(msrs.as_slice().get(..count).unwrap_or_default().to_vec())
}

/// Writes all of `msrs`, or says which one was refused.
pub fn write(vcpu: &VcpuFd, msrs: &Msrs) -> Result<(), KvmError> {
    let written = ioctl::call("KVM_SET_MSRS", || vcpu.set_msrs(msrs))?;
    match msrs.as_slice().get(written) {
        Some(refused) => Err(KvmError::Msr(refused.index)),
        None => Ok(()),
    }
}

/// The form in which the kernel takes MSRs.
pub fn collection(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|e| KvmError::Ioctl {
        ioctl: "preparing a list of MSRs",
        source: std::io::Error::other(format!("{e:?}")),
    })
}

/// From here on the guest can write only what a reset puts back. Anything else is a
/// general-protection fault to it. The host is not bound by the filter.
pub fn install_msr_filter(vm: &VmFd) -> Result<(), KvmError> {
    let readable: Vec<Vec<u8>> =
        BLOCKS.iter().map(|(_, count)| vec![0xff; count.div_ceil(8) as usize]).collect();
    let writable: Vec<Vec<u8>> = BLOCKS.iter().map(|block| writable_bits(*block)).collect();
    let range =
        |flags, (base, msr_count), bitmap| MsrFilterRange { flags, base, msr_count, bitmap };
    let ranges: Vec<MsrFilterRange> = BLOCKS
        .iter()
        .zip(&readable)
        .map(|(block, bits)| range(MsrFilterRangeFlags::READ, *block, bits.as_slice()))
        .chain(
            BLOCKS
                .iter()
                .zip(&writable)
                .map(|(block, bits)| range(MsrFilterRangeFlags::WRITE, *block, bits.as_slice())),
        )
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
        .map_err(KvmError::ioctl("KVM_X86_SET_MSR_FILTER"))
}

fn writable_bits((base, count): (u32, u32)) -> Vec<u8> {
    let mut bits = vec![0_u8; count.div_ceil(8) as usize];
    for msr in WRITABLE.iter().chain(&WRITABLE_COMMANDS) {
        if let Some(offset) = msr.checked_sub(base).filter(|offset| *offset < count)
            && let Some(byte) = bits.get_mut(offset as usize / 8)
        {
            *byte |= 1 << (offset % 8);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writable_msrs_have_a_bit() {
        let ones: u32 = BLOCKS
            .iter()
            .flat_map(|block| writable_bits(*block))
            .map(|byte| u32::from(byte.count_ones() as u8))
            .sum();
        assert_eq!(ones as usize, WRITABLE.len() + WRITABLE_COMMANDS.len());
        let low = writable_bits(BLOCKS[0]);
        assert_eq!(low[0x174 / 8] >> (0x174 % 8) & 1, 1);
        assert_eq!(low[0x277 / 8] >> (0x277 % 8) & 1, 0, "PAT must stay as captured");
    }
}
