//! Rows as plots: SVG files whose text the viewer draws, so that no fonts are needed here.

mod legend;
mod lines;
mod parts;
mod style;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::*;
use thiserror::Error;

use self::lines::{Axes, Line};
use super::{FLOOR, Row};

/// Other sizes are left out of plots that are not about memory.
const MEMORY_MIB: u32 = 128;
/// Other counts are left out of plots that are not about dirty pages.
const DIRTY_PAGES: u64 = 256;
/// Rows with more vCPUs are left out of all plots.
const VCPUS: u8 = 1;
const SIZE: (i32, i32) = (960, 600);
const PAGES_AXIS: &str = "dirty pages (4 KiB each)";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawError = DrawingAreaErrorKind<io::Error>;

/// Why plots could not be written.
#[derive(Debug, Error)]
pub enum PlotError {
    /// The plot could not be laid out.
    #[error("cannot draw a plot: {0}")]
    Draw(#[from] DrawError),
    /// The file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Draws all plots `rows` have something for into the existing `directory`; says which.
pub fn write_plots(directory: &Path, rows: &[Row]) -> Result<Vec<PathBuf>, PlotError> {
    let plots: [(&str, Option<String>); 5] = [
        ("latency-by-dirty-pages.svg", by_dirty_pages(rows)?),
        ("latency-by-memory.svg", by_memory(rows)?),
        ("parts.svg", parts(rows)?),
        ("cdf.svg", distribution(rows)?),
        ("next-run.svg", next_run(rows)?),
    ];
    let mut written = Vec::new();
    for (name, svg) in plots {
        let Some(svg) = svg else { continue };
        let path = directory.join(name);
        fs::write(&path, svg).map_err(|source| PlotError::Write { path: path.clone(), source })?;
        written.push(path);
    }
    Ok(written)
}

fn by_dirty_pages(rows: &[Row]) -> Result<Option<String>, DrawError> {
    let rows = Selection::of(rows, |row| row.memory_mib == MEMORY_MIB);
    let lines = rows.lines(|row| vec![(count(row.dirty_pages), row.p50_us)]);
    let caption = format!("Reset by dirty pages, {MEMORY_MIB} MiB, {VCPUS} vCPU");
    lines::log_log(&lines, &Axes { caption: &caption, x: PAGES_AXIS, y: "p50 of a reset (µs)" })
}

fn by_memory(rows: &[Row]) -> Result<Option<String>, DrawError> {
    let rows = Selection::of(rows, |row| row.dirty_pages == DIRTY_PAGES);
    let lines = rows.lines(|row| vec![(f64::from(row.memory_mib), row.p50_us)]);
    let caption = format!("Reset by memory size, {DIRTY_PAGES} dirty pages, {VCPUS} vCPU");
    let axes = Axes { caption: &caption, x: "guest memory (MiB)", y: "p50 of a reset (µs)" };
    lines::log_log(&lines, &axes)
}

fn parts(rows: &[Row]) -> Result<Option<String>, DrawError> {
    let of_plot = |row: &Row| row.memory_mib == MEMORY_MIB && row.strategy == "copy-back";
    let mut rows = Selection::of(rows, of_plot);
    rows.rows.sort_by_key(|row| (row.dirty_pages, &row.guest));
    let label = |row: &Row| rows.label(row, &row.dirty_pages.to_string());
    let bars: Vec<_> = rows.rows.iter().map(|row| (label(row), row.parts_us)).collect();
    let caption = format!("Parts of a copy-back reset, {MEMORY_MIB} MiB, {VCPUS} vCPU");
    parts::stacked(&bars, &caption)
}

fn distribution(rows: &[Row]) -> Result<Option<String>, DrawError> {
    let of_plot = |row: &Row| row.memory_mib == MEMORY_MIB && row.dirty_pages == DIRTY_PAGES;
    let rows = Selection::of(rows, of_plot);
    let lines = rows.lines(|row| lines::cumulative(&row.samples_us));
    let caption = format!(
        "Distribution of resets, {DIRTY_PAGES} dirty pages, {MEMORY_MIB} MiB, {VCPUS} vCPU"
    );
    let axes = Axes { caption: &caption, x: "time of a reset (µs)", y: "share of resets" };
    lines::log_share(&lines, &axes)
}

/// What a reset costs altogether: some strategies leave work to the guest's next run.
fn next_run(rows: &[Row]) -> Result<Option<String>, DrawError> {
    let of_plot = |row: &Row| row.memory_mib == MEMORY_MIB && row.next_run_us > 0.0;
    let rows = Selection::of(rows, of_plot);
    let x = |row: &Row| count(row.dirty_pages);
    let both = rows.lines(|row| vec![(x(row), row.p50_us + row.next_run_us)]);
    let mut lines: Vec<Line> = Vec::new();
    for (both, next) in both.into_iter().zip(rows.lines(|row| vec![(x(row), row.next_run_us)])) {
        let name = both.label.clone();
        lines.push(Line { label: format!("{name}: reset + next run"), ..both });
        lines.push(Line { label: format!("{name}: next run"), is_dashed: true, ..next });
    }
    let caption = format!("Reset and the run after it, {MEMORY_MIB} MiB, {VCPUS} vCPU");
    lines::log_log(&lines, &Axes { caption: &caption, x: PAGES_AXIS, y: "p50 (µs)" })
}

/// The rows of one plot.
struct Selection<'a> {
    rows: Vec<&'a Row>,
    guests: BTreeSet<&'a str>,
}

impl<'a> Selection<'a> {
    fn of(rows: &'a [Row], is_wanted: impl Fn(&Row) -> bool) -> Self {
        let wanted = |row: &&Row| row.vcpus == VCPUS && is_wanted(row);
        let rows: Vec<&Row> = rows.iter().filter(wanted).collect();
        let guests = rows.iter().map(|row| row.guest.as_str()).collect();
        Self { rows, guests }
    }

    /// `name`, with the guest where there are several.
    fn label(&self, row: &Row, name: &str) -> String {
        if self.guests.len() > 1 { format!("{name} ({})", row.guest) } else { name.to_owned() }
    }

    /// A line per strategy and guest with the points each of its rows gives, by x.
    fn lines(&self, points: impl Fn(&Row) -> Vec<(f64, f64)>) -> Vec<Line> {
        let key = |row: &Row| (super::rank(&row.strategy).0, row.strategy.clone());
        let series: BTreeSet<_> = self.rows.iter().map(|row| (key(row), &row.guest)).collect();
        let mut lines = Vec::new();
        for (series_key, guest) in series {
            let rows = self
                .rows
                .iter()
                .filter(|row| (key(row), &row.guest) == (series_key.clone(), guest));
            let mut line = Line {
                label: String::new(),
                colour: style::of_strategy(&series_key.1),
                is_dashed: series_key.1 == FLOOR,
                is_hollow: self.guests.first().is_some_and(|first| first != guest),
                points: Vec::new(),
            };
            for row in rows {
                line.label = self.label(row, &row.strategy);
                line.points.extend(points(row));
            }
            line.points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
            lines.push(line);
        }
        lines
    }
}

/// A count as a coordinate; beyond 32 bits no plot needs to be right.
fn count(value: u64) -> f64 {
    u32::try_from(value).map_or(f64::from(u32::MAX), f64::from)
}

/// Draws onto an empty page.
fn page(draw: impl FnOnce(&Area) -> Result<(), DrawError>) -> Result<String, DrawError> {
    let mut svg = String::new();
    {
        let size = (SIZE.0.unsigned_abs(), SIZE.1.unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests;
