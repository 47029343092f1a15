//! Rows as a Markdown table.

use std::fmt::Write as _;

use super::{FLOOR, Row, rank};

const NONE: &str = "–";
const HEADER: &str = "\
| guest | memory (MiB) | vCPUs | dirty pages | strategy | n | p50 (µs) | p90 (µs) | p99 (µs) | max (µs) | p50 / floor |
|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|
";

/// A table by memory, dirty pages and strategy. Nothing without rows.
pub fn markdown(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| {
        (row.memory_mib, row.dirty_pages, rank(&row.strategy), &row.guest, row.vcpus)
    });
    let mut text = HEADER.to_owned();
    for row in sorted {
        let times = [row.p50_us, row.p90_us, row.p99_us, row.max_us].map(number).join(" | ");
        let ratio = ratio(row, rows).map_or_else(|| NONE.to_owned(), number);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {times} | {ratio} |",
            escape(&row.guest),
            row.memory_mib,
            row.vcpus,
            row.dirty_pages,
            escape(&row.strategy),
            row.iterations,
        );
    }
    text
}

/// How many times the floor `row` takes. A floor of the same guest and vCPUs goes before others.
fn ratio(row: &Row, rows: &[Row]) -> Option<f64> {
    let floor = rows
        .iter()
        .filter(|floor| floor.strategy == FLOOR)
        .filter(|floor| (floor.memory_mib, floor.dirty_pages) == (row.memory_mib, row.dirty_pages))
        .min_by_key(|floor| (floor.guest != row.guest, floor.vcpus != row.vcpus))?;
    let ratio = row.p50_us / floor.p50_us;
    (ratio.is_finite() && floor.p50_us > 0.0).then_some(ratio)
}

/// About three digits; more only for whole numbers.
fn number(value: f64) -> String {
    if !value.is_finite() {
        NONE.to_owned()
    } else if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::tests::row;

    /// The cells of the table below its header.
    fn cells(rows: &[Row]) -> Vec<Vec<String>> {
        let text = markdown(rows);
        let split = |line: &str| line.trim_matches('|').split(" | ").map(cell).collect();
        text.lines().skip(2).map(split).collect()
    }

    fn cell(text: &str) -> String {
        text.trim().to_owned()
    }

    #[test]
    fn rows_are_sorted_and_held_against_their_floor() {
        let cells = cells(&[
            row("floor", 256, 16, 2.0),
            row("floor", 128, 256, 20.0),
            row("hybrid", 128, 256, 30.0),
            row("copy-back", 128, 256, 50.0),
            row("copy-back", 128, 16, 7.0),
            row("copy-back", 256, 16, 3.0),
        ]);
        let keys: Vec<String> =
            cells.iter().map(|cells| format!("{} {} {}", cells[1], cells[3], cells[4])).collect();
        assert_eq!(
            keys,
            [
                "128 16 copy-back",
                "128 256 copy-back",
                "128 256 hybrid",
                "128 256 floor",
                "256 16 copy-back",
                "256 16 floor"
            ]
        );
        let ratios: Vec<&str> = cells.iter().map(|cells| cells[10].as_str()).collect();
        assert_eq!(ratios, ["–", "2.50", "1.50", "1.00", "1.50", "1.00"]);
        assert_eq!(cells[1][6..10], ["50.0", "100", "150", "200"]);
    }

    #[test]
    fn the_floor_of_the_same_guest_goes_first() {
        let mut linux = row("floor", 128, 256, 10.0);
        linux.guest = "linux".to_owned();
        let micro = row("floor", 128, 256, 5.0);
        let copy = row("copy-back", 128, 256, 20.0);
        assert_eq!(cells(&[linux.clone(), micro, copy.clone()])[0][10], "4.00");
        assert_eq!(cells(&[linux, copy])[0][10], "2.00");
    }

    #[test]
    fn what_is_no_number_is_shown_as_none() {
        let cells = cells(&[row("floor", 128, 256, 0.0), row("hy|brid", 128, 256, f64::NAN)]);
        assert_eq!(cells[0][10], NONE);
        assert_eq!(cells[1][4], "hy\\|brid");
        assert_eq!(cells[1][6..], [NONE; 5]);
        assert_eq!(markdown(&[]), "");
    }
}
