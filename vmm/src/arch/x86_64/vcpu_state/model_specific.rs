//! Model-specific registers, and the TSC where it is read and written with them.

use super::VcpuState;
use super::group::{MsrSource, VcpuComparison, VcpuGroup, VcpuReader};
use crate::arch::Named;
use crate::arch::x86_64::msrs;
use crate::arch::x86_64::residue::Residue;
use crate::ioctl::KvmError;
use crate::mismatch::Mismatch;

pub const GROUP: VcpuGroup = VcpuGroup {
    listed: 8,
    read,
    write: |writer| msrs::write(writer.fd, writer.msrs),
    compare,
    describe,
};

fn read(reader: &mut VcpuReader<'_>) -> Result<(), KvmError> {
    reader.state.msrs = match reader.msrs {
        MsrSource::Listed(wanted) => msrs::read(reader.fd, wanted)?,
        MsrSource::Prepared(wanted) => msrs::read_prepared(reader.fd, wanted)?,
        MsrSource::PreparedWithTsc(wanted) => {
            let mut found = msrs::read_prepared(reader.fd, wanted)?;
            match found.first() {
                Some(first) if first.index == msrs::TSC => {
                    reader.state.tsc = found.remove(0).data;
                }
                _ => return Err(KvmError::Msr(msrs::TSC)),
            }
            found
        }
    };
    Ok(())
}

fn compare(pair: &VcpuComparison<'_>, found: &mut Vec<Mismatch<String>>) {
    let (then, now) = (&pair.then.msrs, &pair.now.msrs);
    if then.len() != now.len() {
        let words = (then.len().to_string(), now.len().to_string());
        found.push(Mismatch::new("number of MSRs".into(), words));
    }
    for (then, now) in then.iter().zip(now) {
        if (then.index, then.data) != (now.index, now.data) {
            let words = (format!("{:#x}", then.data), format!("{:#x}", now.data));
            let residue = Residue::of_msr(then, now, pair.now.tsc);
            let mismatch = Mismatch::new(format!("MSR {:#x}", then.index), words);
            found.push(mismatch.or_residue(residue.map(Residue::reason)));
        }
    }
}

fn describe(state: &VcpuState, named: &mut Vec<Named>) {
    named.extend(state.msrs.iter().map(|msr| (name(msr.index), format!("{:#x}", msr.data))));
}

fn name(index: u32) -> String {
    let name = match index {
        0x1b => "APIC_BASE",
        0x3a => "FEATURE_CONTROL",
        0x3b => "TSC_ADJUST",
        0x48 => "SPEC_CTRL",
        0x174 => "SYSENTER_CS",
        0x175 => "SYSENTER_ESP",
        0x176 => "SYSENTER_EIP",
        0x1a0 => "MISC_ENABLE",
        0x1d9 => "DEBUGCTL",
        0x277 => "PAT",
        0x6e0 => "TSC_DEADLINE",
        0xda0 => "XSS",
        0xc000_0080 => "EFER",
        0xc000_0081 => "STAR",
        0xc000_0082 => "LSTAR",
        0xc000_0083 => "CSTAR",
        0xc000_0084 => "FMASK",
        0xc000_0100 => "FS_BASE",
        0xc000_0101 => "GS_BASE",
        0xc000_0102 => "KERNEL_GS_BASE",
        0xc000_0103 => "TSC_AUX",
        0x12 | 0x4b56_4d01 => "KVM_SYSTEM_TIME",
        _ => return format!("MSR {index:#x}"),
    };
    format!("MSR {name} ({index:#x})")
}
