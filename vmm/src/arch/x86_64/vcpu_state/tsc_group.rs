//! The guest's time-stamp counter.

use super::group::{MsrSource, VcpuComparison, VcpuGroup};
use crate::arch::x86_64::tsc;
use crate::mismatch::Mismatch;

pub const GROUP: VcpuGroup = VcpuGroup {
    listed: 9,
    read: |reader| {
        // Otherwise it comes with the other MSRs.
        if !matches!(reader.msrs, MsrSource::PreparedWithTsc(_)) {
            reader.state.tsc = tsc::offset(reader.fd)?.wrapping_add(reader.host_tsc);
        }
        Ok(())
    },
    write: |writer| match writer.tsc_offset {
        Some(offset) => tsc::set_offset(writer.fd, offset),
        None => Ok(()),
    },
    compare,
    describe: |state, named| named.push(("tsc".into(), format!("{:#x}", state.tsc))),
};

/// The counter runs on: it has to be within bounds.
fn compare(pair: &VcpuComparison<'_>, found: &mut Vec<Mismatch<String>>) {
    let Some((bounds, hertz)) = &pair.tsc else { return };
    let (then, now) = (pair.then.tsc, pair.now.tsc);
    if !bounds.fits(then, now, *hertz) {
        found.push(Mismatch::new("TSC".into(), (bounds.expected(then), now.to_string())));
    }
}
