//! What a guest may see of CPUID, leaf by leaf: a list of what is allowed.
//!
//! A feature is here when it has no state, or when a reset restores its state. What a host adds and
//! this table does not know reads as zero, so that a guest sees the same whether its host's kernel is
//! older or newer. Bits are named as in the Intel SDM volume 2 (CPUID) and the AMD APM volume 3
//! (appendix E).

use kvm_bindings::kvm_cpuid_entry2;

use super::Vendor;

/// Masks of EAX, EBX, ECX and EDX.
type Masks = [u32; 4];

const ALL: u32 = u32::MAX;
const NONE: Masks = [0; 4];

/// The highest basic leaf that a guest is told of. All above are zero.
pub const MAX_BASIC: u32 = 0xd;
/// The highest extended leaf.
pub const MAX_EXTENDED: u32 = 0x8000_0021;
/// The highest leaf of KVM's own.
pub const MAX_HYPERVISOR: u32 = 0x4000_0001;

/// Components that XCR0 may switch on: x87, SSE, AVX, AVX-512 (three), protection keys.
pub const XCR0: u32 = bits(&[0, 1, 2, 5, 6, 7, 9]);

/// x2APIC. On Intel's processors with a virtual APIC, KVM backs the address of the local APIC with a
/// page of memory, which the guest reads and writes in x2APIC mode and which no reset can restore. The
/// guest stays in xAPIC mode there. On AMD's processors the timer in the kernel keeps the virtual
/// APIC off.
pub const X2APIC: u32 = 1 << 21;

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT,
/// TSC deadline, AES, XSAVE, AVX, F16C, RDRAND, hypervisor.
const LEAF1_ECX: u32 =
    bits(&[0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 24, 25, 26, 28, 29, 30, 31]) | X2APIC;
/// Leaf 1 EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CMPXCHG8B, APIC, SYSENTER, MTRR, PGE, MCA, CMOV,
/// PAT, PSE-36, CLFLUSH, MMX, FXSR, SSE, SSE2, self snoop, more than one logical processor.
const LEAF1_EDX: u32 =
    bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27, 28]);
/// Leaf 7.0 EBX: FSGSBASE, TSC_ADJUST, BMI1, AVX2, FDP_EXCPTN_ONLY, SMEP, BMI2, ERMS, INVPCID,
/// no FCS and FDS, AVX-512 F and DQ, RDSEED, ADX, SMAP, AVX-512 IFMA, CLFLUSHOPT, CLWB, AVX-512 CD,
/// SHA, AVX-512 BW and VL. Without SGX, TSX, resource control, MPX and processor trace.
const LEAF7_EBX: u32 =
    bits(&[0, 1, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31]);
/// Leaf 7.0 ECX: AVX-512 VBMI, UMIP, PKU, AVX-512 VBMI2, GFNI, VAES, VPCLMULQDQ, AVX-512 VNNI, BITALG
/// and VPOPCNTDQ, five-level paging, RDPID, CLDEMOTE, MOVDIRI, MOVDIR64B. Without user-mode wait, CET,
/// key locker, bus lock detection, which is a bit of DEBUGCTL, ENQCMD and SGX.
const LEAF7_ECX: u32 = bits(&[1, 2, 3, 6, 8, 9, 10, 11, 12, 14, 16, 22, 25, 27, 28]);
/// Leaf 7.0 EDX: FSRM, AVX-512 VP2INTERSECT, MD_CLEAR, SERIALIZE, AVX-512 FP16, SPEC_CTRL, STIBP,
/// L1D_FLUSH, ARCH_CAPABILITIES, SSBD. Without user interrupts, TSXLDTRK, PCONFIG, LBR, CET, AMX.
const LEAF7_EDX: u32 = bits(&[4, 8, 10, 14, 23, 26, 27, 28, 29, 31]);
/// Leaf 7.1 EAX: SHA-512, SM3, SM4, AVX-VNNI, AVX-512 BF16, CMPccXADD, three fast strings, AVX-IFMA.
const LEAF7_1_EAX: u32 = bits(&[0, 1, 2, 4, 5, 7, 10, 11, 12, 23]);
/// Leaf 7.1 EDX: AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, PREFETCHI.
const LEAF7_1_EDX: u32 = bits(&[4, 5, 10, 14]);
/// Leaf 7.2 EDX: bits of SPEC_CTRL, and MCDT_NO.
const LEAF7_2_EDX: u32 = bits(&[0, 1, 2, 3, 4, 5]);
/// Leaf 0xd.1 EAX: XSAVEOPT, XSAVEC, XGETBV with ECX 1, XSAVES. Without XFD.
const LEAFD_1_EAX: u32 = bits(&[0, 1, 2, 3]);
/// Leaf 0x8000_0001 ECX: LAHF, CMP_LEGACY, CR8 in 32-bit mode, ABM, SSE4A, misaligned SSE,
/// PREFETCHW, XOP, FMA4, TBM, topology extensions. Without SVM, extended APIC, IBS, LWP, counters.
const EXTENDED_ECX: u32 = bits(&[0, 1, 4, 5, 6, 7, 8, 11, 16, 21, 22]);
/// Leaf 0x8000_0001 EDX: what leaf 1 has, SYSCALL, NX, MMXEXT, FFXSR, 1 GiB pages, RDTSCP, long mode,
/// 3DNow! (two).
const EXTENDED_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 22, 23, 24, 25, 26, 27, 29, 30,
    31,
]);
/// Leaf 0x8000_0008 EBX: CLZERO, XSAVEERPTR, WBNOINVD, IBPB, IBRS, STIBP, both always on, IBRS in the
/// same mode, SSBD, SSB_NO, PSFD, BTC_NO, IBPB_RET. Without VIRT_SSBD, which has an MSR of its own.
const SPECULATION_EBX: u32 = bits(&[0, 2, 9, 12, 14, 15, 16, 17, 19, 24, 26, 28, 29, 30]);
/// Leaf 0x8000_0021 EAX: no nested data breakpoints, LFENCE serialises, VERW clears, null selector
/// clears base, automatic IBRS, no SMM control MSR, SBPB, IBPB_BRTYPE, SRSO_NO, SRSO_USER_KERNEL_NO.
const MORE_EAX: u32 = bits(&[0, 2, 5, 6, 8, 9, 27, 28, 29, 30]);
/// Leaf 0x8000_0021 ECX: TSA_SQ_NO, TSA_L1_NO.
const MORE_ECX: u32 = bits(&[1, 2]);

/// KVM features (Documentation/virt/kvm/x86/cpuid.rst): kvmclock old and new, no I/O delay, a clock
/// source that is stable across vCPUs. Without those through which KVM writes into guest memory.
pub const KVM_FEATURES: u32 = bits(&[0, 1, 3, 24]);

/// A word with these bits set.
const fn bits(numbers: &[u32]) -> u32 {
    let mut word = 0;
    let mut rest = numbers;
    while let [first, more @ ..] = rest {
        word |= 1 << *first;
        rest = more;
    }
    word
}

/// What a guest of a processor of this vendor may see of a leaf. Topology leaves are written anew for
/// each vCPU and are not here.
fn masks(vendor: Vendor, function: u32, index: u32) -> Masks {
    match (function, index) {
        // Highest leaf and vendor; caches; brand; caches and TLBs of AMD.
        (
            0
            | 2
            | 4
            | 0x4000_0000
            | 0x8000_0000
            | 0x8000_0002..=0x8000_0006
            | 0x8000_0019
            | 0x8000_001d,
            _,
        ) => [ALL; 4],
        (1, _) => {
            let hidden = if vendor == Vendor::Intel { X2APIC } else { 0 };
            // The rest of EBX says on which processor of the host the question was asked.
            [ALL, 0xffff, LEAF1_ECX & !hidden, LEAF1_EDX]
        }
        // The local APIC's timer runs in every power state.
        (6, _) => [1 << 2, 0, 0, 0],
        (7, 0) => [ALL, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX],
        (7, 1) => [LEAF7_1_EAX, 0, 0, LEAF7_1_EDX],
        (7, 2) => [0, 0, 0, LEAF7_2_EDX],
        // KVM keeps the size of what is switched on up to date, in EBX.
        (0xd, 0) => [XCR0, 0, 0xffff, 0],
        (0xd, 1) => [LEAFD_1_EAX, 0, 0, 0],
        // Size, offset, and whether it is aligned.
        (0xd, 2..=31) if XCR0 & (1 << index) != 0 => [0xffff, 0xffff, 1 << 1, 0],
        (0x4000_0001, _) => [KVM_FEATURES, 0, 0, 0],
        (0x8000_0001, _) => [ALL, 0, EXTENDED_ECX, EXTENDED_EDX],
        // The TSC runs at one rate.
        (0x8000_0007, _) => [0, 0, 0, 1 << 8],
        // Widths of addresses; the number of cores is written anew for each vCPU.
        (0x8000_0008, _) => [0xffff, SPECULATION_EBX, 0, 0],
        // How wide the units are.
        (0x8000_001a, _) => [0b111, 0, 0, 0],
        (0x8000_0021, _) => [MORE_EAX, 0, MORE_ECX, 0],
        _ => NONE,
    }
}

/// Takes away what is not allowed. False when nothing is left.
pub fn reduce(vendor: Vendor, entry: &mut kvm_cpuid_entry2) -> bool {
    let [eax, ebx, ecx, edx] = masks(vendor, entry.function, entry.index);
    entry.eax &= eax;
    entry.ebx &= ebx;
    entry.ecx &= ecx;
    entry.edx &= edx;
    let highest = match entry.function {
        0 => MAX_BASIC,
        0x4000_0000 => MAX_HYPERVISOR,
        0x8000_0000 => MAX_EXTENDED,
        _ => ALL,
    };
    entry.eax = entry.eax.min(highest);
    [entry.eax, entry.ebx, entry.ecx, entry.edx] != NONE
}
