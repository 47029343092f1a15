//! What a machine costs this process beside the guest RAM it has touched.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result};
use sandbox::{KvmConfig, KvmImage, KvmSandbox, Sandbox, SandboxSpec};

const MACHINES: u64 = 4;

/// One line of `/proc/self/smaps` with what matters of the lines below it.
struct Region {
    start: u64,
    end: u64,
    is_kernel: bool,
    rss_kib: u64,
}

/// The mappings of this process.
fn regions() -> Result<Vec<Region>> {
    let maps = fs::read_to_string("/proc/self/smaps").context("cannot read smaps")?;
    let mut regions: Vec<Region> = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let number = |text| u64::from_str_radix(text, 16);
            if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                let is_kernel = line.contains("memfd:kernel");
                regions.push(Region { start, end, is_kernel, rss_kib: 0 });
            }
        } else if let ("Rss:", Some(region)) = (first, regions.last_mut()) {
            region.rss_kib = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        }
    }
    Ok(regions)
}

/// Resident memory in KiB: all of it, and that of guest RAM. A machine's RAM is one mapping with
/// the kernel's sealed memory mapped over a part of it, which leaves three adjacent ones.
fn resident() -> Result<(u64, u64)> {
    let regions = regions()?;
    let all = regions.iter().map(|region| region.rss_kib).sum();
    let mut guest = 0;
    for (index, kernel) in regions.iter().enumerate().filter(|(_, region)| region.is_kernel) {
        guest += kernel.rss_kib;
        let before = index.checked_sub(1).and_then(|index| regions.get(index));
        guest += before.filter(|r| r.end == kernel.start).map_or(0, |region| region.rss_kib);
        let after = regions.get(index + 1).filter(|region| region.start == kernel.end);
        guest += after.map_or(0, |region| region.rss_kib);
    }
    Ok((all, guest))
}

/// Boots a few machines and says what each added beyond guest RAM, in a line of text.
pub fn per_machine(
    spec: &SandboxSpec,
    config: &KvmConfig,
    image: &Arc<KvmImage>,
) -> Result<String> {
    let boot = || -> Result<KvmSandbox> {
        let sandbox = KvmSandbox::with_image(spec.clone(), config.clone(), Arc::clone(image));
        sandbox.boot()?;
        Ok(sandbox)
    };
    // The first one pays for what all share.
    let first = boot()?;
    let (all_before, guest_before) = resident()?;
    let more = (0..MACHINES).map(|_| boot()).collect::<Result<Vec<_>>>()?;
    let (all_after, guest_after) = resident()?;
    drop((first, more));
    let all = all_after.saturating_sub(all_before) / MACHINES;
    let guest = guest_after.saturating_sub(guest_before) / MACHINES;
    Ok(format!(
        "memory of one more machine: {all} KiB resident, {guest} KiB of it touched guest RAM, \
         {} KiB beyond (bar: 5120 KiB)",
        all.saturating_sub(guest)
    ))
}
