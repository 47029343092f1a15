//! The mapping that backs guest RAM.

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::DirtyMap;

/// Guest RAM. Writes that devices make through [`vm_memory::Bytes`] are recorded in its bitmap,
/// one bit per 4 KiB page: the half of the dirty set that KVM's dirty log does not see.
pub type GuestRam = GuestMemoryMmap<DirtyMap>;

/// Smallest guest, in MiB: the kernel, its page structures and one tool still fit.
pub const MIN_MEMORY_MIB: u32 = 64;
/// Largest guest, in MiB.
pub const MAX_MEMORY_MIB: u32 = 8192;

/// Why guest RAM could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The size is outside what the machine supports.
    #[error("{0} MiB of guest memory; choose {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB")]
    Size(u32),
    /// The host refused the mapping.
    #[error("cannot map guest memory: {0}; free host memory or choose a smaller guest")]
    Map(String),
    /// Golden memory could not be made or mapped.
    #[error("cannot keep a golden copy of guest memory: {0}; free host memory")]
    Golden(#[source] std::io::Error),
}

/// Maps anonymous, private, zero-filled RAM of `mib` MiB. Nothing is touched, so nothing is used
/// until the guest does. `ranges` is the architecture's address map: it gives the guest-physical
/// ranges of RAM, as start and length in bytes, for a size in bytes.
///
/// # Errors
///
/// The size is outside [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`], or the host refuses the mapping.
pub fn allocate(
    mib: u32,
    ranges: impl FnOnce(u64) -> Vec<(u64, u64)>,
) -> Result<GuestRam, MemoryError> {
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&mib) {
        return Err(MemoryError::Size(mib));
    }
    let ranges: Vec<(GuestAddress, usize)> = ranges(u64::from(mib) << 20)
        .into_iter()
        .map(|(start, length)| (GuestAddress(start), length as usize))
        .collect();
    GuestRam::from_ranges(&ranges).map_err(|e| MemoryError::Map(e.to_string()))
}

/// Host address of the first byte of the region that starts at `start`.
pub fn host_address(ram: &GuestRam, start: GuestAddress) -> Result<u64, MemoryError> {
    ram.get_host_address(start)
        .map(|pointer| pointer as u64)
        .map_err(|e| MemoryError::Map(e.to_string()))
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryRegion;

    use super::*;

    #[test]
    fn sizes_outside_the_range_are_refused() {
        for mib in [0, 1, MIN_MEMORY_MIB - 1, MAX_MEMORY_MIB + 1, u32::MAX] {
            assert!(matches!(allocate(mib, |_| Vec::new()), Err(MemoryError::Size(m)) if m == mib));
        }
    }

    #[test]
    fn ram_lies_where_the_address_map_says() {
        const HOLE: u64 = 3 << 30;
        let around = |bytes| vec![(0, HOLE), (4 << 30, bytes - HOLE)];
        let ram = allocate(MAX_MEMORY_MIB, around).unwrap();
        assert_eq!(ram.num_regions(), 2);
        assert_eq!(ram.iter().map(GuestMemoryRegion::len).sum::<u64>(), 8 << 30);
        assert!(ram.get_host_address(GuestAddress(HOLE)).is_err());
    }
}
