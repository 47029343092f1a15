//! What became of one target, as libFuzzer tells it.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

/// What one target did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct TargetOutcome {
    pub target: String,
    /// Inputs it was given.
    pub executions: u64,
    /// Of those, in a second.
    pub per_second: u64,
    /// Edges of the program that were reached.
    pub edges: u64,
    /// Those, with how often, and comparisons: what libFuzzer calls features.
    pub features: u64,
    /// Inputs that are worth keeping.
    pub corpus: u64,
    pub peak_mib: u64,
    /// Why it ended otherwise than by time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// The inputs that did it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<PathBuf>,
    /// Why it did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl TargetOutcome {
    pub fn skipped(target: &str, why: &str) -> Self {
        Self { target: target.to_owned(), skipped: Some(why.to_owned()), ..Self::default() }
    }

    /// Found something, or ran and did nothing.
    pub fn has_failed(&self) -> bool {
        self.found.is_some() || (self.skipped.is_none() && self.executions == 0)
    }

    /// One line for a failure.
    pub fn trouble(&self) -> Option<String> {
        self.has_failed().then(|| {
            let found = self.found.as_deref().unwrap_or("it ran nothing");
            let inputs: Vec<String> =
                self.inputs.iter().map(|input| input.display().to_string()).collect();
            format!("{}: {found}; input: {}", self.target, inputs.join(" "))
        })
    }

    /// Reads the numbers out of what libFuzzer printed.
    pub fn read(target: &str, log: &str) -> Self {
        let mut outcome = Self { target: target.to_owned(), ..Self::default() };
        for line in log.lines() {
            let mut words = line.split_whitespace();
            let number = |words: &mut std::str::SplitWhitespace<'_>| {
                words.next().and_then(|word| word.split('/').next()?.parse().ok())
            };
            while let Some(word) = words.next() {
                let slot = match word {
                    "stat::number_of_executed_units:" => &mut outcome.executions,
                    "stat::average_exec_per_sec:" => &mut outcome.per_second,
                    "stat::peak_rss_mb:" => &mut outcome.peak_mib,
                    "cov:" => &mut outcome.edges,
                    "ft:" => &mut outcome.features,
                    "corp:" => &mut outcome.corpus,
                    _ => continue,
                };
                *slot = number(&mut words).unwrap_or(*slot);
            }
        }
        outcome
    }
}

/// The outcomes for a person. Writing to a string cannot fail, so results of that are ignored.
pub fn table(outcomes: &[TargetOutcome]) -> String {
    let mut text = format!(
        "{:<18} {:>12} {:>9} {:>8} {:>9} {:>7} {:>9}  {}\n",
        "target", "executions", "a second", "edges", "features", "corpus", "peak", "found"
    );
    for one in outcomes {
        let found = match (&one.skipped, &one.found) {
            (Some(why), _) => format!("not run: {why}"),
            (None, Some(found)) => found.clone(),
            (None, None) => "nothing".to_owned(),
        };
        let _ = writeln!(
            text,
            "{:<18} {:>12} {:>9} {:>8} {:>9} {:>7} {:>5} MiB  {found}",
            one.target,
            one.executions,
            one.per_second,
            one.edges,
            one.features,
            one.corpus,
            one.peak_mib
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "#2\tINITED cov: 5 ft: 6 corp: 1/1b exec/s: 0 rss: 30Mb\n\
        #99\tNEW    cov: 12 ft: 34 corp: 7/21Kb lim: 4 exec/s: 0 rss: 30Mb L: 4/4 MS: 1 X-\n\
        Done 1234 runs in 2 second(s)\n\
        stat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     617\n\
        stat::peak_rss_mb:              56\n";

    #[test]
    fn the_last_numbers_count() {
        let outcome = TargetOutcome::read("t", LOG);
        let numbers = [outcome.executions, outcome.edges, outcome.features, outcome.corpus];
        assert_eq!(numbers, [1234, 12, 34, 7]);
        assert_eq!((outcome.per_second, outcome.peak_mib), (617, 56));
        assert!(!outcome.has_failed() && outcome.trouble().is_none());
    }

    #[test]
    fn what_ran_nothing_has_failed_and_what_was_skipped_has_not() {
        assert!(TargetOutcome::read("t", "nothing").has_failed());
        assert!(!TargetOutcome::skipped("t", "no KVM").has_failed());
        let found = TargetOutcome { found: Some("crash".into()), ..TargetOutcome::read("t", LOG) };
        assert!(found.has_failed() && table(&[found]).contains("crash"));
    }
}
