//! The CPUID template: what the guest may know of, and therefore use.
//!
//! The template has what `allowed` lists and nothing else. So it hides what a reset would have to
//! restore, and what would let the guest see more of the host than it needs: nested virtualisation,
//! performance counters, processor trace, SGX, AMX, CET, key locker, user-mode wait, LBR, and the
//! paravirtual features through which KVM writes into guest memory by itself (steal time, asynchronous
//! page faults, PV EOI).

mod allowed;

use std::sync::OnceLock;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ioctl::KvmError;

/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: the entry depends on ECX.
const INDEX_IS_SIGNIFICANT: u32 = 1;

/// Leaf 1 ECX.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;

/// Size of the legacy area of XSAVE and its header, behind which the components lie.
const XSAVE_HEADER_END: u32 = 576;

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

/// Who made a processor, as far as what a guest may see depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// `GenuineIntel`.
    Intel,
    /// All others.
    Other,
}

impl Vendor {
    /// The vendor that leaf 0 of `entries` names.
    fn of(entries: &[kvm_cpuid_entry2]) -> Self {
        let named = entries.iter().find(|entry| entry.function == 0);
        match named.map(|leaf| [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes)) {
            Some([a, b, c]) if [a, b, c].concat() == b"GenuineIntel" => Self::Intel,
            _ => Self::Other,
        }
    }
}

/// The template of what KVM supports. Two kernels on one processor give the same one as long as both
/// support what a guest may see: the order of leaves, leaves of zeros and the highest number of a leaf
/// do not matter.
fn reduce(supported: &[kvm_cpuid_entry2], deadline_timer: bool) -> Vec<kvm_cpuid_entry2> {
    let vendor = Vendor::of(supported);
    let mut entries: Vec<_> = supported
        .iter()
        .filter_map(|entry| {
            let mut entry = *entry;
            let something_left = allowed::reduce(vendor, &mut entry);
            if entry.function == 1 {
                entry.ecx |= HYPERVISOR;
                if deadline_timer {
                    entry.ecx |= TSC_DEADLINE;
                }
            }
            something_left.then_some(entry)
        })
        .collect();
    entries.sort_by_key(|entry| (entry.function, entry.index));
    name_the_highest(&mut entries);
    entries
}

/// Makes leaves that say how many there are, or how much room they need, speak of what is left.
fn name_the_highest(entries: &mut [kvm_cpuid_entry2]) {
    let highest = |of: std::ops::Range<u32>| {
        entries.iter().map(|entry| entry.function).filter(|function| of.contains(function)).max()
    };
    let extended = highest(0x8000_0000..0x8001_0000);
    let structured =
        entries.iter().filter(|entry| entry.function == 7).map(|entry| entry.index).max();
    let components = entries.iter().filter(|entry| entry.function == 0xd && entry.index >= 2);
    let xsave_bytes = components.map(|entry| entry.eax.saturating_add(entry.ebx)).max();
    for entry in entries {
        match (entry.function, entry.index) {
            (7, 0) => entry.eax = structured.unwrap_or_default(),
            (0xd, 0) => entry.ecx = xsave_bytes.unwrap_or_default().max(XSAVE_HEADER_END),
            (0x8000_0000, _) => entry.eax = extended.unwrap_or(entry.eax),
            _ => {}
        }
    }
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
mod tests;
