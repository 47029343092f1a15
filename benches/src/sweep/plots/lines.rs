//! Plots of lines, with a logarithmic x axis.

use std::ops::Range;

use plotters::coord::combinators::LogCoord;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::legend::{self, DASH, Entry, GAP, Sample};
use super::{Area, DrawError, page, style};

/// Logarithmic axes start and end here at the furthest.
const SMALLEST: f64 = 0.1;
const LARGEST: f64 = 1e12;
/// A distribution is drawn through at most this many of its quantiles.
const QUANTILES: usize = 500;
const MOST_LABELS: usize = 12;

/// A line and its place in the legend.
pub struct Line {
    pub label: String,
    pub colour: RGBColor,
    pub is_dashed: bool,
    /// Whether its points are rings.
    pub is_hollow: bool,
    pub points: Vec<(f64, f64)>,
}

impl Line {
    fn stroke(&self) -> ShapeStyle {
        self.colour.stroke_width(2)
    }

    fn entry(&self) -> Entry<'_> {
        let sample = if self.is_dashed { Sample::Dashes } else { Sample::Line };
        Entry { label: &self.label, sample: sample(self.stroke()) }
    }
}

/// Words around a plot.
pub struct Axes<'a> {
    pub caption: &'a str,
    pub x: &'a str,
    pub y: &'a str,
}

type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, Y>>;

/// Both axes logarithmic, x in powers of two. `None` when there is no point to draw.
pub fn log_log(lines: &[Line], axes: &Axes) -> Result<Option<String>, DrawError> {
    let lines = drawable(lines, |(x, y)| (clamped(x), clamped(y)));
    let all = || lines.iter().flat_map(|line| &line.points);
    let (Some((x, x_steps)), Some((y, _))) =
        (range(all().map(|point| point.0), 2.0), range(all().map(|point| point.1), 10.0))
    else {
        return Ok(None);
    };
    page(|area| {
        let mut chart = builder(area, axes, &lines)
            .build_cartesian_2d(x.log_scale().base(2.0), y.log_scale())?;
        // One label a power: more would be labels between the powers.
        finish(&mut chart, &lines, axes, x_steps.clamp(1, MOST_LABELS), true)?;
        legend::draw(area, &legend_of(&lines))
    })
    .map(Some)
}

/// The y axis from nothing to all. `None` when there is no point to draw.
pub fn log_share(lines: &[Line], axes: &Axes) -> Result<Option<String>, DrawError> {
    let lines = drawable(lines, |(x, y)| (clamped(x), y));
    let all = lines.iter().flat_map(|line| &line.points);
    let Some((x, _)) = range(all.map(|point| point.0), 10.0) else { return Ok(None) };
    page(|area| {
        let mut chart = builder(area, axes, &lines)
            .build_cartesian_2d(x.log_scale(), RangedCoordf64::from(0.0..1.0))?;
        finish(&mut chart, &lines, axes, MOST_LABELS, false)?;
        legend::draw(area, &legend_of(&lines))
    })
    .map(Some)
}

/// The share of `samples` at or below each of them, as the corners of steps.
pub fn cumulative(samples: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<f64> = samples.iter().copied().filter(|us| us.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let steps = sorted.len().min(QUANTILES);
    let share = |step: usize| f64::from(step as u32) / f64::from(steps as u32);
    let mut points = Vec::with_capacity(steps * 2);
    for step in 1..=steps {
        let at = (sorted.len() * step).div_ceil(steps) - 1;
        points.extend(sorted.get(at).map(|us| (*us, share(step - 1))));
        points.extend(sorted.get(at).map(|us| (*us, share(step))));
    }
    points
}

/// The lines with points, as far as those are numbers.
fn drawable(lines: &[Line], place: impl Fn((f64, f64)) -> (f64, f64)) -> Vec<Line> {
    let is_number = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
    let placed = |line: &Line| Line {
        label: line.label.clone(),
        points: line.points.iter().copied().filter(is_number).map(&place).collect(),
        ..*line
    };
    lines.iter().map(placed).filter(|line| !line.points.is_empty()).collect()
}

fn clamped(value: f64) -> f64 {
    value.clamp(SMALLEST, LARGEST)
}

/// From one power of `base` to another, around `values`, and how many powers there are.
fn range(values: impl Iterator<Item = f64>, base: f64) -> Option<(Range<f64>, usize)> {
    let (low, high) = values
        .fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return None;
    }
    // A little early and late, for powers that are off by a rounding error.
    let start = (low.log(base) + 1e-9).floor();
    let end = (high.log(base) - 1e-9).ceil().max(start + 1.0);
    // At most a few dozen.
    #[allow(clippy::cast_sign_loss)]
    let steps = (end - start) as usize;
    Some((base.powf(start) * 0.99..base.powf(end) * 1.01, steps))
}

fn builder<'a, 'b>(
    area: &'a Area<'b>,
    axes: &Axes,
    lines: &[Line],
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(axes.caption, (style::FONT, style::CAPTION))
        .margin(16)
        .margin_right(legend::width(&legend_of(lines)))
        .x_label_area_size(44)
        .y_label_area_size(64);
    builder
}

/// Draws grid and lines.
fn finish<Y>(
    chart: &mut Chart<Y>,
    lines: &[Line],
    axes: &Axes,
    x_labels: usize,
    has_points: bool,
) -> Result<(), DrawError>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_labels(x_labels)
        .max_light_lines(1)
        .bold_line_style(style::FAINT)
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value))
        .label_style((style::FONT, style::LABEL))
        .draw()?;
    for line in lines {
        let stroke = line.stroke();
        let points = line.points.clone().into_iter();
        if line.is_dashed {
            chart.draw_series(DashedLineSeries::new(points, DASH, GAP, stroke))?;
        } else {
            chart.draw_series(LineSeries::new(points, stroke))?;
        }
        if has_points {
            let fill = if line.is_hollow { stroke } else { line.colour.filled() };
            chart.draw_series(line.points.iter().map(|at| Circle::new(*at, 4, fill)))?;
        }
    }
    Ok(())
}

fn legend_of(lines: &[Line]) -> Vec<Entry<'_>> {
    lines.iter().map(Line::entry).collect()
}

/// A value on an axis without what rounding left behind.
fn tick(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{}", (value * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_at_powers() {
        let (range, steps) = super::range([64.0, 300.0].into_iter(), 2.0).unwrap();
        assert_eq!((tick(range.start / 0.99), tick(range.end / 1.01)), ("64".into(), "512".into()));
        assert_eq!(steps, 3);
        let (range, _) = super::range([10.0].into_iter(), 10.0).unwrap();
        assert!(range.contains(&10.0) && range.contains(&100.0), "{range:?}");
        assert!(super::range(std::iter::empty(), 10.0).is_none());
    }

    #[test]
    fn a_distribution_climbs_to_all() {
        let points = cumulative(&[3.0, f64::NAN, 1.0]);
        assert_eq!(points, [(1.0, 0.0), (1.0, 0.5), (3.0, 0.5), (3.0, 1.0)]);
        assert_eq!(cumulative(&[]), []);
        let many: Vec<f64> = (0..10_000).map(f64::from).collect();
        let points = cumulative(&many);
        assert_eq!(points.len(), 2 * QUANTILES);
        assert_eq!(points.last(), Some(&(9999.0, 1.0)));
    }
}
