//! The CPUID template: what the guest may know of, and therefore use.
//!
//! The template hides what a reset would have to restore, and what would let the guest see more of
//! the host than it needs: nested virtualisation, performance counters, processor
//! trace, SGX, AMX, CET, key locker, user-mode wait, and the paravirtual features through which
//! KVM writes into guest memory by itself (steal time, asynchronous page faults, PV EOI).

use std::sync::OnceLock;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ioctl::KvmError;

/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: the entry depends on ECX.
const INDEX_IS_SIGNIFICANT: u32 = 1;

/// Leaf 1 ECX.
const VMX: u32 = 1 << 5;
const PDCM: u32 = 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;

/// Leaf 7.0 EBX: HLE, RTM, SGX, processor trace.
const LEAF7_EBX_HIDDEN: u32 = (1 << 4) | (1 << 11) | (1 << 2) | (1 << 25);
/// Leaf 7.0 ECX: user-mode wait, CET shadow stack, key locker, ENQCMD, SGX launch control.
const LEAF7_ECX_HIDDEN: u32 = (1 << 5) | (1 << 7) | (1 << 23) | (1 << 29) | (1 << 30);
/// Leaf 7.0 EDX: user interrupts, PCONFIG, architectural LBR, CET IBT, AMX (three bits).
const LEAF7_EDX_HIDDEN: u32 =
    (1 << 5) | (1 << 18) | (1 << 19) | (1 << 20) | (1 << 22) | (1 << 24) | (1 << 25);
/// Leaf 7.1 EAX: AMX-FP16, FRED, LKGS. EDX: AMX-INT8, AMX-COMPLEX.
const LEAF7_1_EAX_HIDDEN: u32 = (1 << 21) | (1 << 17) | (1 << 18);
const LEAF7_1_EDX_HIDDEN: u32 = (1 << 4) | (1 << 8);

/// XCR0 bits 17 and 18: AMX tile state.
const XCR0_AMX: u32 = (1 << 17) | (1 << 18);
/// Supervisor state components a guest could set: processor trace, CET, user interrupts, LBR.
const XSS_HIDDEN: u32 = (1 << 8) | (1 << 11) | (1 << 12) | (1 << 14) | (1 << 15);

/// Leaf 0x8000_0001 ECX: SVM, extended APIC space, lightweight profiling, NB and L2I counters.
const EXTENDED_ECX_HIDDEN: u32 =
    (1 << 2) | (1 << 3) | (1 << 15) | (1 << 23) | (1 << 24) | (1 << 28);

/// KVM features kept (Documentation/virt/kvm/x86/cpuid.rst): kvmclock old and new, no I/O delay,
/// a clock source that is stable across vCPUs.
const KVM_FEATURES_KEPT: u32 = (1 << 0) | (1 << 1) | (1 << 3) | (1 << 24);

/// Leaves that are emptied: performance monitoring, SGX, processor trace, AMX (two), key locker,
/// architectural LBR; AMD's SVM, lightweight profiling, sampling, SEV and performance monitoring,
/// and the place of the processor that was asked, which each vCPU gets anew.
const EMPTIED: [u32; 13] = [
    0xa,
    0x12,
    0x14,
    0x19,
    0x1c,
    0x1d,
    0x1e,
    0x8000_000a,
    0x8000_001b,
    0x8000_001c,
    0x8000_001e,
    0x8000_001f,
    0x8000_0022,
];

/// Leaves that describe caches. On a processor with two kinds of cores they depend on the core that
/// answers. Nothing a guest has in memory depends on them, so two templates may differ in them.
const CACHES: [u32; 2] = [2, 4];

/// The CPUID leaves that a guest gets: what this host supports, reduced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CpuidTemplate {
    entries: Vec<kvm_cpuid_entry2>,
    vcpus: u8,
}

impl CpuidTemplate {
    /// The template for a guest with `vcpus` processors.
    ///
    /// # Errors
    ///
    /// KVM refuses to tell which leaves it supports.
    pub fn for_host(kvm: &Kvm, vcpus: u8) -> Result<Self, KvmError> {
        Ok(Self { entries: entries_of_host(kvm)?, vcpus })
    }

    /// Number of processors of a guest with this template.
    pub fn vcpus(&self) -> u8 {
        self.vcpus
    }

    /// Vendor, family and model of the processor that the template names.
    pub fn processor(&self) -> (String, u32, u32) {
        let leaf = |function| self.entries.iter().find(|entry| entry.function == function);
        let vendor = leaf(0).map_or([0; 3], |leaf| [leaf.ebx, leaf.edx, leaf.ecx]);
        let vendor: Vec<u8> = vendor.iter().flat_map(|word| word.to_le_bytes()).collect();
        let version = leaf(1).map_or(0, |leaf| leaf.eax);
        // Intel SDM volume 2, CPUID, "Version Information"; AMD APM volume 3 agrees.
        let (base, extended) = ((version >> 8) & 0xf, (version >> 20) & 0xff);
        let family = if base == 0xf { base + extended } else { base };
        let high = if matches!(base, 6 | 0xf) { (version >> 12) & 0xf0 } else { 0 };
        let model = high | ((version >> 4) & 0xf);
        (String::from_utf8_lossy(&vendor).into_owned(), family, model)
    }

    /// SHA-256 of everything that has to be equal for a guest to move from one host to another.
    pub fn sha256(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update([self.vcpus]);
        for entry in self.binding() {
            for word in words(entry) {
                hash.update(word.to_le_bytes());
            }
        }
        hash.finalize().into()
    }

    /// The first leaf in which a host with template `here` differs, and both values.
    pub fn difference(&self, here: &Self) -> Option<(String, String, String)> {
        let text = |entry: Option<&kvm_cpuid_entry2>| match entry {
            None => "absent".to_owned(),
            Some(entry) => {
                let [.., eax, ebx, ecx, edx] = words(entry);
                format!("eax {eax:#x} ebx {ebx:#x} ecx {ecx:#x} edx {edx:#x}")
            }
        };
        let (mut mine, mut others) = (self.binding(), here.binding());
        loop {
            let (one, other) = match (mine.next(), others.next()) {
                (None, None) => return None,
                (Some(one), Some(other)) if words(one) == words(other) => continue,
                pair => pair,
            };
            let leaf = one.or(other).map(|entry| (entry.function, entry.index));
            let (function, index) = leaf.unwrap_or_default();
            return Some((format!("CPUID leaf {function:#x}.{index}"), text(one), text(other)));
        }
    }

    /// A copy of the template with other registers, EAX to EDX, in one leaf.
    #[cfg(test)]
    pub fn with_leaf(&self, function: u32, change: impl Fn(&mut [u32; 4])) -> Self {
        let mut changed = self.clone();
        for entry in changed.entries.iter_mut().filter(|entry| entry.function == function) {
            let mut registers = [entry.eax, entry.ebx, entry.ecx, entry.edx];
            change(&mut registers);
            [entry.eax, entry.ebx, entry.ecx, entry.edx] = registers;
        }
        changed
    }

    fn binding(&self) -> impl Iterator<Item = &kvm_cpuid_entry2> {
        self.entries.iter().filter(|entry| !CACHES.contains(&entry.function))
    }

    /// The entries for the vCPU with APIC id `id`.
    pub fn for_vcpu(&self, id: u8) -> Result<CpuId, KvmError> {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            personalise(entry, id, self.vcpus);
        }
        entries.extend(topology(id, self.vcpus));
        CpuId::from_entries(&entries).map_err(|e| KvmError::Ioctl {
            ioctl: "KVM_SET_CPUID2",
            source: std::io::Error::other(format!("{e:?}")),
        })
    }
}

/// The leaves that every guest of this host gets. KVM is asked once: it asks the processor for every
/// leaf, and each takes long where KVM is software or the host is a guest itself.
fn entries_of_host(kvm: &Kvm) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
    static ENTRIES: OnceLock<Vec<kvm_cpuid_entry2>> = OnceLock::new();
    if let Some(known) = ENTRIES.get() {
        return Ok(known.clone());
    }
    let entries = ask(kvm)?;
    Ok(ENTRIES.get_or_init(|| entries).clone())
}

fn ask(kvm: &Kvm) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    Ok(reduce(supported.as_slice(), deadline))
}

fn words(entry: &kvm_cpuid_entry2) -> [u32; 7] {
    let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, .. } = *entry;
    [function, index, flags, eax, ebx, ecx, edx]
}

fn reduce(supported: &[kvm_cpuid_entry2], deadline_timer: bool) -> Vec<kvm_cpuid_entry2> {
    supported
        .iter()
        // Topology leaves are written anew for each vCPU.
        .filter(|entry| !matches!(entry.function, 0xb | 0x1f | 0x8000_0026))
        .map(|entry| {
            let mut entry = *entry;
            hide(&mut entry);
            if entry.function == 1 {
                entry.ecx |= HYPERVISOR;
                if deadline_timer {
                    entry.ecx |= TSC_DEADLINE;
                }
            }
            entry
        })
        .collect()
}

fn hide(entry: &mut kvm_cpuid_entry2) {
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ecx &= !(VMX | PDCM);
            // The rest says on which processor of the host the question was asked.
            entry.ebx &= 0xffff;
        }
        (7, 0) => {
            entry.ebx &= !LEAF7_EBX_HIDDEN;
            entry.ecx &= !LEAF7_ECX_HIDDEN;
            entry.edx &= !LEAF7_EDX_HIDDEN;
        }
        (7, 1) => {
            entry.eax &= !LEAF7_1_EAX_HIDDEN;
            entry.edx &= !LEAF7_1_EDX_HIDDEN;
        }
        (0xd, 0) => entry.eax &= !XCR0_AMX,
        (0xd, 1) => entry.ecx &= !XSS_HIDDEN,
        (0xd, 8 | 11 | 12 | 14 | 15 | 17 | 18) => clear(entry),
        (0x4000_0001, _) => entry.eax &= KVM_FEATURES_KEPT,
        (0x8000_0001, _) => entry.ecx &= !EXTENDED_ECX_HIDDEN,
        (function, _) if EMPTIED.contains(&function) => clear(entry),
        _ => {}
    }
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

fn personalise(entry: &mut kvm_cpuid_entry2, id: u8, vcpus: u8) {
    match entry.function {
        1 => {
            // Initial APIC id, logical processors per package, and keep the flush line size.
            entry.ebx &= 0x0000_ffff;
            entry.ebx |= (u32::from(id) << 24) | (u32::from(vcpus) << 16);
            if vcpus > 1 {
                entry.edx |= HTT;
            } else {
                entry.edx &= !HTT;
            }
        }
        // Cores sharing each cache, minus one, and cores per package, minus one.
        4 if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { u32::from(vcpus) - 1 } else { 0 };
            entry.eax &= 0x0000_3fff;
            entry.eax |= (sharing << 14) | ((u32::from(vcpus) - 1) << 26);
        }
        // AMD: number of cores, minus one, and the width of the core id.
        0x8000_0008 => {
            entry.ecx &= !0xf0ff;
            entry.ecx |= (u32::from(vcpus) - 1) | (id_width(vcpus) << 12);
        }
        // AMD: extended APIC id, one thread a core, one node.
        0x8000_001e => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (u32::from(id), u32::from(id), 0, 0);
        }
        _ => {}
    }
}

/// Entries of leaf 0xb, for one thread a core and all cores in one package.
fn topology(id: u8, vcpus: u8) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, eax: u32, ebx: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: INDEX_IS_SIGNIFICANT,
        eax,
        ebx,
        ecx: index | (kind << 8),
        edx: u32::from(id),
        ..Default::default()
    };
    [level(0, 0, 1, 1), level(1, id_width(vcpus), u32::from(vcpus), 2), level(2, 0, 0, 0)]
}

/// Number of bits that number `vcpus` processors.
fn id_width(vcpus: u8) -> u32 {
    u32::from(vcpus).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_reset_does_not_restore_is_hidden() {
        let entries = [
            full(1, 0),
            full(7, 0),
            full(0xa, 0),
            full(0xd, 0),
            full(0x4000_0001, 0),
            full(0x8000_0001, 0),
        ];
        let reduced = reduce(&entries, true);
        let leaf = |function| reduced.iter().find(|e| e.function == function).unwrap();
        assert_eq!(leaf(1).ecx & VMX, 0);
        assert_eq!(leaf(7).edx & (7 << 22) & LEAF7_EDX_HIDDEN, 0);
        assert_eq!(leaf(0xa).eax, 0);
        assert_eq!(leaf(0xd).eax & XCR0_AMX, 0);
        assert_eq!(leaf(0x4000_0001).eax, KVM_FEATURES_KEPT);
        assert_eq!(leaf(0x8000_0001).ecx & (1 << 2), 0);
    }

    #[test]
    fn two_hosts_are_told_apart_by_leaf_but_not_by_caches() {
        let template = |entries: &[kvm_cpuid_entry2]| CpuidTemplate {
            entries: reduce(entries, true),
            vcpus: 1,
        };
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
}
