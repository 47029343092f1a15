//! Counts test results in what test programs print.

use std::ops::{AddAssign, SubAssign};

/// Longest line worth remembering; a summary is far shorter.
const LINE_LIMIT: usize = 4096;

/// Numbers of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

impl Tally {
    /// Tests that really ran.
    pub fn executed(self) -> u64 {
        self.passed + self.failed
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl SubAssign for Tally {
    fn sub_assign(&mut self, other: Self) {
        self.passed = self.passed.saturating_sub(other.passed);
        self.failed = self.failed.saturating_sub(other.failed);
        self.ignored = self.ignored.saturating_sub(other.ignored);
    }
}

/// Reads a test program's standard output for its summaries.
#[derive(Debug, Default)]
pub struct SummaryReader {
    line: Vec<u8>,
    found: Option<Tally>,
}

impl SummaryReader {
    /// Takes the next piece of output.
    pub fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_LIMIT {
                self.line.push(*byte);
            }
        }
    }

    /// The sum of all summaries; without any, the program itself counts as one test.
    pub fn finish(mut self, success: bool) -> Tally {
        self.end_line();
        let mut tally = self.found.unwrap_or_default();
        if success && self.found.is_none() {
            tally.passed = 1;
        } else if !success && tally.failed == 0 {
            // It died before it could say so.
            tally.failed = 1;
        }
        tally
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if let Some(tally) = parse(&String::from_utf8_lossy(&line)) {
            *self.found.get_or_insert_default() += tally;
        }
    }
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; ...`, perhaps
/// behind something a test printed without an end of line.
fn parse(line: &str) -> Option<Tally> {
    let (_, result) = line.split_once("test result: ")?;
    let (_, counts) = result.split_once(". ")?;
    let mut tally = Tally::default();
    for count in counts.split("; ") {
        let Some((number, what)) = count.split_once(' ') else { continue };
        let slot = match what {
            "passed" => &mut tally.passed,
            "failed" => &mut tally.failed,
            "ignored" => &mut tally.ignored,
            _ => continue,
        };
        *slot = number.parse().ok()?;
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "running 6 tests\ntest a ... ok\n\ntest result: FAILED. 5 passed; \
        2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s\n";

    fn read(pieces: &[&[u8]], success: bool) -> Tally {
        let mut reader = SummaryReader::default();
        for piece in pieces {
            reader.read(piece);
        }
        reader.finish(success)
    }

    #[test]
    fn summaries_are_found_however_output_is_cut() {
        let expected = Tally { passed: 5, failed: 2, ignored: 1 };
        assert_eq!(expected.executed(), 7);
        for cut in 0..SUMMARY.len() {
            let (one, two) = SUMMARY.as_bytes().split_at(cut);
            assert_eq!(read(&[one, two], false), expected);
        }
    }

    #[test]
    fn several_summaries_add_up() {
        let twice = [SUMMARY.as_bytes(), b"no line end: ", SUMMARY.as_bytes()];
        assert_eq!(read(&twice, false), Tally { passed: 10, failed: 4, ignored: 2 });
    }

    #[test]
    fn crash_counts_as_a_failure() {
        let ok = b"test result: ok. 3 passed; 0 failed; 0 ignored\n".as_slice();
        assert_eq!(read(&[ok], false), Tally { passed: 3, failed: 1, ignored: 0 });
        assert_eq!(read(&[b"Segmentation"], false), Tally { passed: 0, failed: 1, ignored: 0 });
    }

    #[test]
    fn program_without_summary_is_one_test() {
        assert_eq!(read(&[b"fine"], true), Tally { passed: 1, failed: 0, ignored: 0 });
    }

    #[test]
    fn endless_lines_are_not_kept() {
        let mut reader = SummaryReader::default();
        reader.read(&vec![b'x'; 10 * LINE_LIMIT]);
        assert_eq!(reader.line.len(), LINE_LIMIT);
    }
}
