//! Extended control registers, and the floating point and vector registers they switch on.

use kvm_bindings::kvm_xsave;

use super::VcpuState;
use super::group::{VcpuComparison, VcpuGroup, Writer};
use crate::arch::Named;
use crate::ioctl::{self, KvmError};
use crate::mismatch::{self, Mismatch};

/// Index of the 64-bit `XSTATE_BV` in the area, in 32-bit words.
const XSTATE_BV: usize = 512 / 4;
/// Bytes of vector and floating point state shown as one value.
const ROW: usize = 16;

/// XCR0.
pub const CONTROL: VcpuGroup = VcpuGroup {
    listed: 4,
    read: |reader| {
        reader.state.xcrs = reader.fd.get_xcrs().map_err(KvmError::ioctl("KVM_GET_XCRS"))?;
        Ok(())
    },
    write: |writer| {
        let (fd, xcrs) = (&writer.fd, &writer.state.xcrs);
        ioctl::call("KVM_SET_XCRS", || fd.set_xcrs(xcrs))
    },
    compare: |pair, found| {
        let (then, now) = (&pair.then.xcrs, &pair.now.xcrs);
        found.extend(mismatch::of_values("extended control registers".into(), then, now));
    },
    describe: |state, named| {
        for xcr in state.xcrs.xcrs.iter().take(state.xcrs.nr_xcrs as usize) {
            named.push((format!("xcr{}", xcr.xcr), format!("{:#x}", xcr.value)));
        }
    },
};

/// The XSAVE area.
pub const STATE: VcpuGroup = VcpuGroup {
    listed: 6,
    read: |reader| {
        *reader.state.xsave = reader.fd.get_xsave().map_err(KvmError::ioctl("KVM_GET_XSAVE"))?;
        Ok(())
    },
    write,
    compare,
    describe,
};

fn write(writer: &mut Writer<'_>) -> Result<(), KvmError> {
    let (fd, xsave) = (&writer.fd, &writer.state.xsave);
    // SAFETY: no guest here may use features that need more than 4 KiB: the process never asks for
    // the permission that AMX needs.
    ioctl::call("KVM_SET_XSAVE", || unsafe { fd.set_xsave(xsave) })
}

fn compare(pair: &VcpuComparison<'_>, found: &mut Vec<Mismatch<String>>) {
    let (then, now) = (&*pair.then.xsave, &*pair.now.xsave);
    if compared(then) != compared(now) {
        let part = "floating point and vector registers".to_owned();
        found.push(Mismatch::new(part, first_difference(then, now)));
    }
}

/// The area without `XSTATE_BV`, which says which components the processor believes to be in use.
/// The processor may find out by itself that one holds nothing but initial values (Intel SDM volume
/// 1, 13.6). KVM writes initial values for components that are not in use.
fn compared(area: &kvm_xsave) -> (Option<&[u32]>, Option<&[u32]>) {
    (area.region.get(..XSTATE_BV), area.region.get(XSTATE_BV + 2..))
}

fn first_difference(then: &kvm_xsave, now: &kvm_xsave) -> (String, String) {
    let differing = then
        .region
        .iter()
        .zip(&now.region)
        .enumerate()
        .find(|(word, (then, now))| !(XSTATE_BV..XSTATE_BV + 2).contains(word) && then != now);
    differing.map_or_else(Default::default, |(word, (then, now))| {
        (format!("byte {:#x}: {then:#x}", word * 4), format!("byte {:#x}: {now:#x}", word * 4))
    })
}

/// Legacy area, header, and the rest by offset (Intel SDM volume 1, 13.4).
fn describe(state: &VcpuState, named: &mut Vec<Named>) {
    let bytes: Vec<u8> = state.xsave.region.iter().flat_map(|word| word.to_le_bytes()).collect();
    let rows = bytes.as_chunks::<ROW>().0.iter().enumerate();
    named.extend(rows.map(|(index, row)| {
        let name = match index {
            0 | 1 => format!("x87 control {index}"),
            2..=9 => format!("st{}", index - 2),
            10..=25 => format!("xmm{}", index - 10),
            32 => "XSTATE_BV and XCOMP_BV".to_owned(),
            _ => format!("xsave+{:#x}", index * ROW),
        };
        (name, format!("{:#034x}", u128::from_le_bytes(*row)))
    }));
}
