//! How long programs took last time, so that long ones go first, and the table of where the time
//! went.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::report::Report;
use crate::nested::job::Job;
use crate::workspace;

/// Programs named in the table.
const SLOWEST: usize = 10;
/// What a program counts as that never ran: it might be long.
const UNKNOWN: f64 = 1e9;

/// Seconds that programs took, by their labels, kept in the cache.
#[derive(Debug, Default)]
pub struct Durations(BTreeMap<String, f64>);

impl Durations {
    /// What earlier runs left, if they left anything.
    pub fn load() -> Self {
        let text = path().and_then(|path| fs::read(path).ok());
        Self(text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    /// Sorts jobs: the longest first, so that the end of a run is not one long job.
    pub fn sort(&self, jobs: &mut [Job]) {
        let seconds = |job: &Job| self.0.get(&job.label).copied().unwrap_or(UNKNOWN);
        jobs.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)));
    }

    /// Adds what this run took and keeps it. Without a cache the next run does not know it.
    pub fn save(mut self, reports: &[Report]) {
        for (label, took) in reports.iter().flat_map(|report| &report.durations) {
            self.0.insert(label.clone(), took.as_secs_f64());
        }
        if let (Some(path), Ok(text)) = (path(), serde_json::to_vec_pretty(&self.0)) {
            let _ = fs::write(path, text);
        }
    }
}

fn path() -> Option<PathBuf> {
    let directory = workspace::cache_dir().ok()?;
    fs::create_dir_all(&directory).ok()?;
    Some(directory.join("durations.json"))
}

/// One line a part of the run, then the slowest programs. Parts that ran at the same time add up to
/// more than the whole. Writing to a string cannot fail, so results of that are ignored.
pub fn table(parts: &[(&str, Duration)], whole: Duration, reports: &[Report]) -> String {
    let mut text = String::from("Where the time went:\n");
    let mut line = |name: &str, took: Duration| {
        let _ = writeln!(text, "{:>8.1} s  {name}", took.as_secs_f64());
    };
    for (name, took) in parts {
        line(name, *took);
    }
    for report in reports {
        line(report.name, report.took);
    }
    line("all together", whole);
    let mut programs: Vec<_> = reports.iter().flat_map(|report| &report.durations).collect();
    programs.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    text.push_str("The slowest programs:\n");
    for (label, took) in programs.into_iter().take(SLOWEST) {
        let _ = writeln!(text, "{:>8.1} s  {label}", took.as_secs_f64());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(label: &str) -> Job {
        Job { label: label.into(), argv: vec![], directory: "/".into(), environment: [].into() }
    }

    #[test]
    fn long_and_unknown_programs_go_first() {
        let durations = Durations([("long".into(), 60.0), ("short".into(), 1.0)].into());
        let mut jobs = [job("short"), job("long"), job("new")];
        durations.sort(&mut jobs);
        assert_eq!(jobs.map(|job| job.label), ["new", "long", "short"]);
    }

    #[test]
    fn the_table_names_parts_and_slowest_programs() {
        let mut report = Report::empty("host tests", "here");
        report.durations = (0..20).map(|n| (format!("p{n}"), Duration::from_secs(n))).collect();
        let text = table(&[("compiling", Duration::from_secs(90))], Duration::ZERO, &[report]);
        assert!(text.contains("90.0 s  compiling") && text.contains("host tests"), "{text}");
        assert!(text.contains("p19") && text.contains("p10") && !text.contains("p9\n"), "{text}");
    }
}
