//! Model-specific registers: which there are, which a guest may write, which a reset restores.
//!
//! The state space is closed, not listed: once a golden state exists, a filter that denies by
//! default lets the guest write only the MSRs of one table that were captured, and a reset restores
//! exactly those. Two kinds of access pass by the filter: the x2APIC registers, which are part of the
//! local APIC's state, and `SWAPGS`, whose MSR is writable.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};

use crate::ioctl::{self, KvmError};

/// Deadline of the local APIC's timer, in TSC ticks (Intel SDM volume 3, "TSC-Deadline Mode").
pub const TSC_DEADLINE: u32 = 0x6e0;
/// The time-stamp counter. See [`tsc`].
pub const TSC: u32 = 0x10;
/// `DEBUGCTL` and where AMD's processors keep the last branch and the last interrupt (APM volume 2,
/// "Control-Transfer Breakpoint Features").
pub const BRANCH_RECORDS: [u32; 5] = [0x1d9, 0x1db, 0x1dc, 0x1dd, 0x1de];
/// Further away than any counter KVM could take for the one before: days.
const FAR_AWAY: u64 = 1 << 52;
/// Commands rather than state: writing one makes KVM write the wall clock into guest memory.
const KVM_WALL_CLOCKS: [u32; 2] = [0x11, 0x4b56_4d00];

/// Hyper-V's synthetic MSRs, some of which are clocks of the host. The guest is not told of them and
/// they are behind the filter.
const HYPER_V: std::ops::Range<u32> = 0x4000_0000..0x4000_1000;

/// An MSR that a guest may write once its golden state is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Writable {
    index: u32,
    kept: Kept,
}

/// What keeps the captured value of a writable MSR, and so restores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// The captured MSRs. Every processor here has it: a capture without it fails.
    Always,
    /// The captured MSRs, where the guest's processor has it. Where it was not captured, the guest
    /// cannot write it either.
    WherePresent,
    /// The special registers, which contain it.
    WithSpecialRegisters,
    /// Nothing: it is a command and holds no state.
    Command,
}

/// The one table from which come the MSRs that a guest may write and those that a reset restores
/// (Intel SDM volume 4; AMD APM volume 2). The deadline comes last: it is compared with the TSC and
/// belongs to a timer whose mode is part of the local APIC.
///
/// Not here: `DEBUGCTL` and the LBR registers that it makes the processor write, of which kernels
/// before Linux 6.18 neither list nor restore all; `XSS`, which accepts nothing but zero.
const TABLE: [Writable; 17] = [
    at(0x48, Kept::WherePresent), // SPEC_CTRL
    at(PRED_CMD, Kept::Command),
    at(FLUSH_CMD, Kept::Command),
    at(0x174, Kept::Always),                     // SYSENTER_CS
    at(0x175, Kept::Always),                     // SYSENTER_ESP
    at(0x176, Kept::Always),                     // SYSENTER_EIP
    at(0x1a0, Kept::Always),                     // MISC_ENABLE
    at(0xc000_0080, Kept::WithSpecialRegisters), // EFER
    at(0xc000_0081, Kept::Always),               // STAR
    at(0xc000_0082, Kept::Always),               // LSTAR
    at(0xc000_0083, Kept::Always),               // CSTAR
    at(0xc000_0084, Kept::Always),               // FMASK
    at(0xc000_0100, Kept::WithSpecialRegisters), // FS_BASE
    at(0xc000_0101, Kept::WithSpecialRegisters), // GS_BASE
    at(0xc000_0102, Kept::Always),               // KERNEL_GS_BASE
    at(0xc000_0103, Kept::WherePresent),         // TSC_AUX
    at(TSC_DEADLINE, Kept::WherePresent),
];

/// MSRs that a guest cannot write, and that KVM changes at an event which a guest can cause: an INIT
/// switches kvmclock off, a system management interrupt is counted. A reset restores them too.
const ALSO_PUT_BACK: [u32; 2] = [SMI_COUNT, KVM_SYSTEM_TIME];

const fn at(index: u32, kept: Kept) -> Writable {
    Writable { index, kept }
}

/// How many system management interrupts the processor took.
const SMI_COUNT: u32 = 0x34;
/// Where KVM keeps the guest's kvmclock up to date.
const KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// The indirect branch prediction barrier's command (Intel SDM volume 4, `IA32_PRED_CMD`).
pub const PRED_CMD: u32 = 0x49;
/// The command that writes back and empties the L1 data cache.
const FLUSH_CMD: u32 = 0x10b;

/// True when a reset puts this MSR back with the other MSRs.
pub fn is_put_back(index: u32) -> bool {
    let kept_here = |kept| matches!(kept, Kept::Always | Kept::WherePresent);
    TABLE.iter().any(|msr| msr.index == index && kept_here(msr.kept))
        || ALSO_PUT_BACK.contains(&index)
}

/// What a guest may write whose golden state holds the MSRs in `captured`.
///
/// # Errors
///
/// One is missing that every processor has: the guest could change it, and no reset would put it
/// back.
pub fn writable(captured: &[kvm_msr_entry]) -> Result<Vec<u32>, KvmError> {
    let is_captured = |index| captured.iter().any(|entry| entry.index == index);
    let mut writable = Vec::with_capacity(TABLE.len());
    for Writable { index, kept } in TABLE {
        match kept {
            Kept::Always if !is_captured(index) => return Err(KvmError::MsrMissing(index)),
            Kept::WherePresent if !is_captured(index) => {}
            _ => writable.push(index),
        }
    }
    Ok(writable)
}

/// Blocks of MSR numbers that exist: Intel's, AMD's two, KVM's.
const BLOCKS: [(u32, u32); 4] =
    [(0, 0x2000), (0xc000_0000, 0x2000), (0xc001_0000, 0x2000), (0x4b56_4d00, 0x100)];

/// Every MSR of which KVM says that it is state, without those that are not restored by writing
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

/// From here on the guest can write only the MSRs in `open`. Anything else is a general-protection
/// fault to it. The host is not bound by the filter.
///
/// # Errors
///
/// KVM refuses the filter.
pub fn open_only(vm: &VmFd, open: &[u32]) -> Result<(), KvmError> {
    let readable: Vec<Vec<u8>> =
        BLOCKS.iter().map(|(_, count)| vec![0xff; count.div_ceil(8) as usize]).collect();
    let writable: Vec<Vec<u8>> = BLOCKS.iter().map(|block| bits_of(open, *block)).collect();
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

fn bits_of(open: &[u32], (base, count): (u32, u32)) -> Vec<u8> {
    let mut bits = vec![0_u8; count.div_ceil(8) as usize];
    for msr in open {
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

    fn entries(indices: impl IntoIterator<Item = u32>) -> Vec<kvm_msr_entry> {
        let entry = |index| kvm_msr_entry { index, ..Default::default() };
        indices.into_iter().map(entry).collect()
    }

    /// The filter's bits, as numbers of MSRs.
    fn opened(open: &[u32]) -> Vec<u32> {
        let bit = |bytes: &[u8], offset: u32| bytes[offset as usize / 8] >> (offset % 8) & 1 == 1;
        BLOCKS
            .iter()
            .flat_map(|block| {
                let bytes = bits_of(open, *block);
                (0..block.1).filter(move |at| bit(&bytes, *at)).map(move |at| block.0 + at)
            })
            .collect()
    }

    #[test]
    fn what_the_filter_opens_is_restored_or_holds_no_state() {
        let all = entries(TABLE.map(|msr| msr.index));
        // Nothing but what must be there.
        let few = entries(TABLE.iter().filter(|m| m.kept == Kept::Always).map(|m| m.index));
        for captured in [all, few] {
            let open = writable(&captured).unwrap();
            assert_eq!(opened(&open).len(), open.len());
            for index in opened(&open) {
                let row = TABLE.iter().find(|msr| msr.index == index).unwrap();
                match row.kept {
                    Kept::Always | Kept::WherePresent => {
                        assert!(is_put_back(index), "{index:#x}");
                        assert!(captured.iter().any(|entry| entry.index == index), "{index:#x}");
                    }
                    Kept::WithSpecialRegisters => {
                        assert!([0xc000_0080, 0xc000_0100, 0xc000_0101].contains(&index));
                    }
                    Kept::Command => assert!([PRED_CMD, FLUSH_CMD].contains(&index)),
                }
            }
            for shut in [0x1d9, 0x1db, 0x1dc, 0xda0, 0x277, 0x1b, 0x34, 0x140, 0xc001_011f] {
                assert!(!open.contains(&shut), "{shut:#x}");
            }
        }
    }

    #[test]
    fn a_capture_without_an_msr_that_every_processor_has_fails() {
        for missing in TABLE.iter().filter(|msr| msr.kept == Kept::Always) {
            let rest = TABLE.iter().map(|msr| msr.index).filter(|index| *index != missing.index);
            let refused = writable(&entries(rest)).unwrap_err();
            assert!(matches!(refused, KvmError::MsrMissing(index) if index == missing.index));
        }
    }
}
