//! Legends right of the charts, where they hide nothing.

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, DrawError, SIZE, style};

/// Length of a dash in pixels.
pub const DASH: u32 = 6;
/// Pixels between dashes.
pub const GAP: u32 = 4;

const TOP: i32 = 56;
const LINE_HEIGHT: i32 = 20;
const SAMPLE: i32 = 24;
/// Everything in the width of a legend that is not text.
const AROUND_TEXT: i32 = 64;
/// Wide enough for most characters of a label.
const CHARACTER: i32 = 7;
const MOST_CHARACTERS: i32 = 60;

/// A line of a legend.
pub struct Entry<'a> {
    pub label: &'a str,
    pub sample: Sample,
}

/// What stands before a label.
pub enum Sample {
    Line(ShapeStyle),
    Dashes(ShapeStyle),
    Area(ShapeStyle),
}

/// Pixels the legend takes from the right of the page.
pub fn width(entries: &[Entry]) -> i32 {
    let longest = entries.iter().map(|entry| entry.label.chars().count()).max();
    let longest = longest.and_then(|length| i32::try_from(length).ok()).unwrap_or_default();
    AROUND_TEXT + CHARACTER * longest.min(MOST_CHARACTERS)
}

/// Draws the legend onto a page, from the top down.
pub fn draw(area: &Area, entries: &[Entry]) -> Result<(), DrawError> {
    let x = SIZE.0 - width(entries) + 12;
    let text = (style::FONT, style::LABEL).into_text_style(area);
    let text = text.pos(Pos::new(HPos::Left, VPos::Center));
    for (entry, y) in entries.iter().zip((0..).map(|line| TOP + LINE_HEIGHT * line)) {
        let ends = [(x, y), (x + SAMPLE, y)];
        match entry.sample {
            Sample::Line(stroke) => area.draw(&PathElement::new(ends, stroke))?,
            Sample::Dashes(stroke) => {
                area.draw(&DashedPathElement::new(ends, DASH, GAP, stroke))?;
            }
            Sample::Area(fill) => {
                area.draw(&Rectangle::new([(x + 10, y - 6), (x + SAMPLE, y + 6)], fill))?;
            }
        }
        area.draw(&Text::new(entry.label, (x + SAMPLE + 8, y), text.clone()))?;
    }
    Ok(())
}
