use std::collections::BTreeMap;

use brainstorm_agent::bench::StepTimes;

use super::*;
use crate::sweep::tests::row;

const ALL: [&str; 5] =
    ["latency-by-dirty-pages.svg", "latency-by-memory.svg", "parts.svg", "cdf.svg", "next-run.svg"];
const STRATEGIES: [&str; 3] = ["copy-back", "hybrid", "floor"];

/// The plots of `rows` by file name.
fn plots(rows: &[Row]) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let written = write_plots(directory.path(), rows).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), written.len());
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    written.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// Whether some text of the plot says just `words`.
fn says(svg: &str, words: &str) -> bool {
    svg.lines().any(|line| line.trim() == words)
}

fn sweep() -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, strategy) in STRATEGIES.into_iter().enumerate() {
        for (dirty_pages, us) in [(1, 8.0), (16, 10.0), (256, 60.0), (4096, 900.0)] {
            let us = us / f64::from(index as u32 + 1);
            rows.push(row(strategy, 128, dirty_pages, us));
            rows.push(row(strategy, 512, dirty_pages, us * 1.5));
        }
    }
    rows
}

#[test]
fn every_plot_is_written_with_its_legend() {
    let plots = plots(&sweep());
    assert_eq!(plots.len(), ALL.len());
    for name in ALL {
        let svg = &plots[name];
        assert!(svg.starts_with("<svg"), "{name}");
        assert!(svg.trim_end().ends_with("</svg>"), "{name}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
    }
    for name in ["latency-by-dirty-pages.svg", "latency-by-memory.svg", "cdf.svg"] {
        assert!(STRATEGIES.iter().all(|strategy| says(&plots[name], strategy)), "{name}");
    }
    let parts = StepTimes::default().named();
    assert!(parts.iter().all(|(part, _)| says(&plots["parts.svg"], part)));
    let next_run = &plots["next-run.svg"];
    assert!(says(next_run, "copy-back: reset + next run") && says(next_run, "hybrid: next run"));
}

#[test]
fn nothing_is_written_without_rows_to_show() {
    assert!(plots(&[]).is_empty());
    let mut elsewhere = row("hybrid", 64, 7, 1.0);
    assert!(plots(std::slice::from_ref(&elsewhere)).is_empty());
    elsewhere.memory_mib = 128;
    let names: Vec<String> = plots(&[elsewhere]).into_keys().collect();
    assert_eq!(names, ["latency-by-dirty-pages.svg", "next-run.svg"]);
}

#[test]
fn odd_numbers_are_left_out_or_moved_into_the_plot() {
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, f64::MAX] {
        let rows = [row("copy-back", 128, 256, odd), row("copy-back", 0, 0, odd)];
        for (name, svg) in plots(&rows) {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name} of {odd}");
        }
    }
    let only_odd = plots(&[row("copy-back", 128, 256, f64::NAN)]);
    assert_eq!(only_odd.into_keys().collect::<Vec<_>>(), ["parts.svg"]);
}

#[test]
fn guests_are_named_where_there_are_several_and_text_is_escaped() {
    let mut linux = row("<b>", 128, 256, 40.0);
    linux.guest = "linux".to_owned();
    let plots = plots(&[row("copy-back", 128, 256, 60.0), linux]);
    let svg = &plots["latency-by-dirty-pages.svg"];
    assert!(says(svg, "copy-back (micro)") && says(svg, "&lt;b&gt; (linux)"));
    assert!(!svg.contains("<b>"));
}
