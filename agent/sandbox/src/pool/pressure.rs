//! Whether this host is short of memory.

use std::fs;
use std::path::PathBuf;

const STALLED: &str = "/proc/pressure/memory";
const MEMINFO: &str = "/proc/meminfo";

/// How short of memory the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PressureLevel {
    /// There is enough: a pool may grow.
    None,
    /// Neither enough nor too little: a pool stays as it is, so that it does not shrink and grow
    /// in turns.
    Some,
    /// There is too little: a pool gives back what it does not use.
    High,
}

/// Tells a pool how short of memory the host is. Asked at most once a second.
pub trait Pressure: Send + Sync {
    /// How it is now.
    fn level(&self) -> PressureLevel;
}

impl<F: Fn() -> PressureLevel + Send + Sync> Pressure for F {
    fn level(&self) -> PressureLevel {
        self()
    }
}

/// What the kernel says: how long tasks stall for memory, and how much is left.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPressure {
    /// Too little when some task stalled for this much of the last ten seconds, in percent.
    pub stalled_percent: f64,
    /// Too little when fewer bytes than these are available.
    pub min_available_bytes: u64,
    stalled: PathBuf,
    meminfo: PathBuf,
}

impl MemoryPressure {
    /// Watches the host's memory with these limits.
    pub fn new(stalled_percent: f64, min_available_bytes: u64) -> Self {
        let (stalled, meminfo) = (STALLED.into(), MEMINFO.into());
        Self { stalled_percent, min_available_bytes, stalled, meminfo }
    }
}

impl Default for MemoryPressure {
    /// A tenth of the time stalled, or less than 256 MiB available.
    fn default() -> Self {
        Self::new(10.0, 256 << 20)
    }
}

impl Pressure for MemoryPressure {
    /// A source that this kernel does not have, or that cannot be read, counts as no shortage.
    fn level(&self) -> PressureLevel {
        let stalled = fs::read_to_string(&self.stalled).ok().and_then(|text| stalled(&text));
        let available = fs::read_to_string(&self.meminfo).ok().and_then(|text| available(&text));
        let high = stalled.is_some_and(|percent| percent >= self.stalled_percent)
            || available.is_some_and(|bytes| bytes < self.min_available_bytes);
        if high {
            return PressureLevel::High;
        }
        let enough = self.min_available_bytes.saturating_add(self.min_available_bytes / 2);
        let eased = stalled.is_none_or(|percent| percent < self.stalled_percent / 2.0)
            && available.is_none_or(|bytes| bytes >= enough);
        if eased { PressureLevel::None } else { PressureLevel::Some }
    }
}

/// `some avg10=1.23 avg60=...`
fn stalled(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

/// `MemAvailable:   123 kB`
fn available(text: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(stalled: &str, available_mib: u64) -> PressureLevel {
        let dir = tempfile::tempdir().unwrap();
        let mut pressure = MemoryPressure::new(10.0, 256 << 20);
        pressure.stalled = dir.path().join("pressure");
        pressure.meminfo = dir.path().join("meminfo");
        let line =
            format!("some avg10={stalled} avg60=99.00 avg300=99.00 total=1\nfull avg10=99.0");
        fs::write(&pressure.stalled, line).unwrap();
        let kib = available_mib << 10;
        let lines = format!("MemTotal: 9 kB\nMemAvailable:   {kib} kB\nBuffers: 1 kB\n");
        fs::write(&pressure.meminfo, lines).unwrap();
        pressure.level()
    }

    #[test]
    fn stalls_and_a_lack_of_memory_both_count() {
        assert_eq!(level("0.00", 1000), PressureLevel::None);
        assert_eq!(level("10.00", 1000), PressureLevel::High);
        assert_eq!(level("0.00", 255), PressureLevel::High);
    }

    #[test]
    fn between_enough_and_too_little_nothing_changes() {
        assert_eq!(level("5.00", 1000), PressureLevel::Some);
        assert_eq!(level("4.99", 1000), PressureLevel::None);
        assert_eq!(level("0.00", 383), PressureLevel::Some);
        assert_eq!(level("0.00", 384), PressureLevel::None);
    }

    #[test]
    fn a_source_that_cannot_be_understood_counts_as_no_shortage() {
        assert_eq!(level("much", 1000), PressureLevel::None);
        let mut pressure = MemoryPressure::new(0.0, u64::MAX);
        pressure.stalled = "/nonexistent".into();
        pressure.meminfo = "/nonexistent".into();
        assert_eq!(pressure.level(), PressureLevel::None);
        assert_eq!((available("MemAvailable: 3 MB"), stalled("full avg10=1.0")), (None, None));
    }

    #[test]
    fn this_kernel_is_understood() {
        assert!(available(&fs::read_to_string(MEMINFO).unwrap()).is_some());
        if let Ok(text) = fs::read_to_string(STALLED) {
            assert!(stalled(&text).is_some(), "{text}");
        }
    }
}
