use super::*;

fn full(function: u32, index: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        eax: u32::MAX,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
        ..Default::default()
    }
}

/// Leaf 0 of a processor of this vendor.
fn vendor(name: [u8; 12]) -> kvm_cpuid_entry2 {
    let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
    kvm_cpuid_entry2 { ebx: word(0), edx: word(4), ecx: word(8), ..full(0, 0) }
}

fn leaf(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    let found = entries.iter().find(|e| (e.function, e.index) == (function, index));
    found.copied().unwrap_or_default()
}

/// Every leaf a kernel of any age could know, with all bits set.
fn everything(vendor_leaf: kvm_cpuid_entry2) -> Vec<kvm_cpuid_entry2> {
    let functions = (1..0x40)
        .chain(0x4000_0000..0x4000_0010)
        .chain(0x8000_0000..0x8000_0040)
        .chain([0xc000_0000, 0xc000_0001]);
    let with_all_indices = functions.flat_map(|f| (0..64).map(move |index| full(f, index)));
    std::iter::once(vendor_leaf).chain(with_all_indices).collect()
}

/// A leaf of all ones yields this and nothing more, whatever kernels will support one day.
#[test]
fn a_leaf_of_all_ones_yields_a_constant() {
    let intel = reduce(&everything(vendor(*b"GenuineIntel")), true);
    let amd = reduce(&everything(vendor(*b"AuthenticAMD")), true);
    let expected = [
        ((1, 0), [u32::MAX, 0xffff, 0xf7fa_3203, 0x1f8b_fbff]),
        ((6, 0), [4, 0, 0, 0]),
        ((7, 0), [2, 0xf1bf_27eb, 0x1a41_5f4e, 0xbc80_4510]),
        ((7, 1), [0x0080_1cb7, 0, 0, 0x4430]),
        ((7, 2), [0, 0, 0, 0x3f]),
        ((0xd, 0), [0x2e7, 0, 0x1_fffe, 0]),
        ((0xd, 1), [0xf, 0, 0, 0]),
        ((0xd, 2), [0xffff, 0xffff, 2, 0]),
        ((0xd, 9), [0xffff, 0xffff, 2, 0]),
        ((0x4000_0000, 0), [0x4000_0001, u32::MAX, u32::MAX, u32::MAX]),
        ((0x4000_0001, 0), [0x0100_000b, 0, 0, 0]),
        ((0x8000_0000, 0), [0x8000_0021, u32::MAX, u32::MAX, u32::MAX]),
        ((0x8000_0001, 0), [u32::MAX, 0, 0x0061_09f3, 0xefd3_fbff]),
        ((0x8000_0007, 0), [0, 0, 0, 0x100]),
        ((0x8000_0008, 0), [0xffff, 0x750b_d205, 0, 0]),
        ((0x8000_001a, 0), [7, 0, 0, 0]),
        ((0x8000_0021, 0), [0x7800_0365, 0, 6, 0]),
    ];
    for ((function, index), registers) in expected {
        let found = leaf(&amd, function, index);
        assert_eq!(
            [found.eax, found.ebx, found.ecx, found.edx].map(|r| format!("{r:#x}")),
            registers.map(|r| format!("{r:#x}")),
            "leaf {function:#x}.{index}"
        );
    }
    // Nothing but what is above, and what describes caches, brand and TLBs.
    let described =
        |f: u32| matches!(f, 0 | 2 | 4 | 0x8000_0002..=0x8000_0006 | 0x8000_0019 | 0x8000_001d);
    let named = |e: &kvm_cpuid_entry2| {
        let by_index = matches!(e.function, 7 | 0xd);
        described(e.function)
            || expected.iter().any(|((f, _), _)| *f == e.function && !by_index)
            || by_index && (e.function == 7 && e.index <= 2)
            || e.function == 0xd && (e.index < 2 || 0x2e7 & (1 << e.index) != 0)
    };
    let unnamed: Vec<_> = amd.iter().filter(|e| !named(e)).map(words).collect();
    assert_eq!(unnamed, Vec::<[u32; 7]>::new());
    // The vendors differ in one bit.
    assert_eq!(leaf(&intel, 1, 0).ecx, leaf(&amd, 1, 0).ecx & !allowed::X2APIC);
    assert_eq!(amd.len(), intel.len());
}

/// A guest in x2APIC mode reaches a page of memory that no reset knows of.
#[test]
fn no_guest_of_an_intel_processor_leaves_xapic_mode() {
    for (name, offered) in [(*b"GenuineIntel", false), (*b"AuthenticAMD", true)] {
        let reduced = reduce(&[vendor(name), full(1, 0)], true);
        assert_eq!(leaf(&reduced, 1, 0).ecx & allowed::X2APIC != 0, offered);
    }
    let Ok(kvm) = crate::kvm::open() else { return };
    let template = CpuidTemplate::for_host(&kvm, 1).unwrap();
    if Vendor::of(&template.entries) == Vendor::Intel {
        assert_eq!(leaf(&template.entries, 1, 0).ecx & allowed::X2APIC, 0);
    }
}

/// A newer kernel knows more leaves and more bits, orders them otherwise, and says so in its
/// highest numbers.
#[test]
fn another_kernel_on_the_same_processor_gives_the_same_hash() {
    let old = [
        vendor(*b"GenuineIntel"),
        full(1, 0),
        kvm_cpuid_entry2 { eax: 0, ebx: 0x20, ecx: 4, ..full(7, 0) },
        full(0x8000_0001, 0),
    ];
    let mut new = vec![
        full(0x8000_0001, 0),
        // Of the new bits, none is one that guests may see.
        kvm_cpuid_entry2 { eax: 1, ebx: 0x24, ecx: 4 | 1 << 24, edx: 1 << 20, ..full(7, 0) },
        kvm_cpuid_entry2 { eax: 1 << 17, ebx: 1, ecx: 1, edx: 1 << 21, ..full(7, 1) },
        full(0x24, 0),
        full(1, 0),
    ];
    new.push(kvm_cpuid_entry2 { eax: 0x24, ..vendor(*b"GenuineIntel") });
    let old = old.map(|e| if e.function == 7 { kvm_cpuid_entry2 { edx: 0, ..e } } else { e });
    let hash = |entries: &[kvm_cpuid_entry2]| {
        CpuidTemplate { entries: reduce(entries, true), vcpus: 1 }.sha256()
    };
    assert_eq!(hash(&old), hash(&new));
    // A bit that guests may see makes a difference.
    new.iter_mut().filter(|e| e.function == 7).for_each(|e| e.ebx |= 1 << 5 | 1 << 3);
    assert_ne!(hash(&old), hash(&new));
}

#[test]
fn what_reset_does_not_restore_is_hidden() {
    let reduced = reduce(&everything(vendor(*b"GenuineIntel")), true);
    // VMX, PDCM.
    assert_eq!(leaf(&reduced, 1, 0).ecx & (1 << 5 | 1 << 15), 0);
    // TSX, SGX, MPX, processor trace.
    assert_eq!(leaf(&reduced, 7, 0).ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 14 | 1 << 25), 0);
    // User-mode wait, shadow stacks, key locker, bus lock detection, ENQCMD.
    let hidden = 1 << 5 | 1 << 7 | 1 << 23 | 1 << 24 | 1 << 29;
    assert_eq!(leaf(&reduced, 7, 0).ecx & hidden, 0);
    // User interrupts, LBR, indirect branch tracking, AMX.
    let hidden = 1 << 5 | 1 << 19 | 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25;
    assert_eq!(leaf(&reduced, 7, 0).edx & hidden, 0);
    // Counters, processor trace, LBR, AMX, AVX10.
    for function in [0xa, 0x12, 0x14, 0x19, 0x1c, 0x1d, 0x1e, 0x24, 0x8000_000a, 0x8000_0022] {
        assert_eq!(leaf(&reduced, function, 0).eax, 0, "{function:#x}");
    }
    // AMX, APX; supervisor states.
    assert_eq!(leaf(&reduced, 0xd, 0).eax & (1 << 17 | 1 << 18 | 1 << 19), 0);
    assert_eq!(leaf(&reduced, 0xd, 1).ecx, 0);
    assert_eq!(leaf(&reduced, 0x4000_0001, 0).eax, allowed::KVM_FEATURES);
    // SVM.
    assert_eq!(leaf(&reduced, 0x8000_0001, 0).ecx & (1 << 2), 0);
}

#[test]
fn two_hosts_are_told_apart_by_leaf_but_not_by_caches() {
    let template =
        |entries: &[kvm_cpuid_entry2]| CpuidTemplate { entries: reduce(entries, true), vcpus: 1 };
    let one = template(&[full(1, 0), full(4, 0), full(7, 0)]);
    let mut other = full(7, 0);
    other.ebx &= !(1 << 16);
    let caches = template(&[full(1, 0), full(7, 0)]);
    assert_eq!(one.difference(&caches), None);
    assert_eq!(one.sha256(), caches.sha256());
    let other = template(&[full(1, 0), full(4, 0), other]);
    let (leaf, snapshot, here) = one.difference(&other).unwrap();
    assert_eq!(leaf, "CPUID leaf 0x7.0");
    assert_ne!(snapshot, here);
    assert_ne!(one.sha256(), other.sha256());
    let (_, _, here) = one.difference(&template(&[full(1, 0)])).unwrap();
    assert_eq!(here, "absent");
}

#[test]
fn every_processor_of_a_host_gives_the_same_template() {
    let Ok(kvm) = crate::kvm::open() else { return };
    let template = || CpuidTemplate { entries: ask(&kvm).unwrap(), vcpus: 2 };
    let first = template();
    for _ in 0..20 {
        std::thread::yield_now();
        assert_eq!(first.difference(&template()), None);
    }
    assert!(!first.processor().0.is_empty());
}

#[test]
fn kvm_is_asked_once() {
    use std::os::fd::{FromRawFd, IntoRawFd};

    let Ok(kvm) = crate::kvm::open() else { return };
    let first = CpuidTemplate::for_host(&kvm, 1).unwrap();
    let nothing = std::fs::File::open("/dev/null").unwrap();
    // SAFETY: the descriptor is open and belongs to this function alone.
    let mute = unsafe { Kvm::from_raw_fd(nothing.into_raw_fd()) };
    assert!(ask(&mute).is_err());
    let again = CpuidTemplate::for_host(&mute, 2).unwrap();
    assert_eq!(first.entries, again.entries);
    assert_eq!((first.vcpus, again.vcpus), (1, 2));
}

#[test]
fn each_vcpu_gets_its_own_apic_id() {
    let template = CpuidTemplate { entries: reduce(&[full(1, 0)], false), vcpus: 4 };
    for id in 0..4 {
        let cpuid = template.for_vcpu(id).unwrap();
        let leaf1 = cpuid.as_slice().iter().find(|e| e.function == 1).unwrap();
        assert_eq!(leaf1.ebx >> 24, u32::from(id));
        assert_eq!((leaf1.ebx >> 16) & 0xff, 4);
        let core = cpuid.as_slice().iter().find(|e| e.function == 0xb && e.index == 1).unwrap();
        assert_eq!((core.eax, core.ebx, core.edx), (2, 4, u32::from(id)));
    }
}

#[test]
fn id_width_counts_bits() {
    assert_eq!([1, 2, 3, 4, 5, 8].map(id_width), [0, 1, 2, 2, 3, 3]);
}
