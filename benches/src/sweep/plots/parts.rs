//! Stacked bars of the parts of a reset: in microseconds, and as shares of the whole.

use brainstorm_agent::bench::StepTimes;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::legend::{self, Entry, Sample};
use super::{Area, DrawError, PAGES_AXIS, SIZE, page, style};

const BAR_MARGIN: u32 = 4;

/// A bar: its label, and its parts from the bottom up.
struct Bar<'a> {
    label: &'a str,
    parts: [(&'static str, f64); 8],
    total: f64,
}

/// What one of the two panels shows.
struct Panel {
    y: &'static str,
    /// Whether bars are all of the same height.
    is_share: bool,
}

/// A bar for each label. `None` when there are none.
pub fn stacked(bars: &[(String, StepTimes)], caption: &str) -> Result<Option<String>, DrawError> {
    let bars: Vec<Bar> = bars.iter().map(|(label, parts)| bar(label, parts)).collect();
    if bars.is_empty() {
        return Ok(None);
    }
    let entry = |(index, (label, _))| Entry {
        label,
        sample: Sample::Area(style::of_index(index).filled()),
    };
    let entries: Vec<Entry> =
        StepTimes::default().named().into_iter().enumerate().map(entry).collect();
    page(|area| {
        legend::draw(area, &entries)?;
        let rest = area.margin(12, 0, 0, legend::width(&entries));
        let rest = rest.titled(caption, (style::FONT, style::CAPTION))?;
        let (left, right) = rest.split_horizontally((SIZE.0 - legend::width(&entries)) / 2);
        draw(&left, &bars, &Panel { y: "p50 of each part (µs)", is_share: false })?;
        draw(&right, &bars, &Panel { y: "share of the parts (%)", is_share: true })
    })
    .map(Some)
}

fn bar<'a>(label: &'a str, parts: &StepTimes) -> Bar<'a> {
    // Parts that are no numbers, or less than nothing, have no height.
    let parts = parts
        .named()
        .map(|(name, us)| (name, if us.is_finite() { us.clamp(0.0, 1e12) } else { 0.0 }));
    Bar { label, parts, total: parts.iter().map(|(_, us)| us).sum() }
}

fn draw(area: &Area, bars: &[Bar], panel: &Panel) -> Result<(), DrawError> {
    let is_share = |bar: &Bar| panel.is_share && bar.total > 0.0;
    let scale = |bar: &Bar| if is_share(bar) { 100.0 / bar.total } else { 1.0 };
    let top = bars.iter().map(|bar| bar.total * scale(bar)).fold(0.0, f64::max);
    let top = if top > 0.0 { top } else { 1.0 };
    // Room for the totals above the bars.
    let top = if panel.is_share { 100.0 } else { top * 1.08 };
    let mut chart =
        ChartBuilder::on(area)
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d((0..bars.len().saturating_sub(1)).into_segmented(), 0.0..top)?;
    let label = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(index) => bars.get(*index).map_or("", |bar| bar.label).to_owned(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc(PAGES_AXIS)
        .y_desc(panel.y)
        .x_labels(bars.len())
        .max_light_lines(1)
        .bold_line_style(style::FAINT)
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&label)
        .y_label_formatter(&|value| format!("{value}"))
        .label_style((style::FONT, style::LABEL))
        .draw()?;

    let mut bottoms = vec![0.0; bars.len()];
    for index in 0..StepTimes::default().named().len() {
        let fill = style::of_index(index).filled();
        let mut boxes = Vec::new();
        for (at, (bar, bottom)) in bars.iter().zip(&mut bottoms).enumerate() {
            let end = *bottom + bar.parts.get(index).map_or(0.0, |(_, us)| us * scale(bar));
            let corners = [(SegmentValue::Exact(at), *bottom), (SegmentValue::Exact(at + 1), end)];
            let mut part = Rectangle::new(corners, fill);
            part.set_margin(0, 0, BAR_MARGIN, BAR_MARGIN);
            boxes.push(part);
            *bottom = end;
        }
        chart.draw_series(boxes)?;
    }
    if panel.is_share {
        return Ok(());
    }
    let text = (style::FONT, style::LABEL).into_text_style(area);
    let text = text.pos(Pos::new(HPos::Center, VPos::Bottom));
    chart.draw_series(bars.iter().enumerate().map(|(at, bar)| {
        let place = (SegmentValue::CenterOf(at), bar.total);
        Text::new(format!("{:.0}", bar.total), place, text.clone())
    }))?;
    Ok(())
}
