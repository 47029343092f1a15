//! Colours that people with colour-blindness can tell apart (Okabe and Ito), text sizes.

use plotters::prelude::*;

use crate::sweep::{FLOOR, STRATEGIES};

pub const FONT: &str = "sans-serif";
pub const CAPTION: u32 = 20;
pub const LABEL: u32 = 13;
pub const FAINT: RGBColor = RGBColor(225, 225, 225);

const GREY: RGBColor = RGBColor(128, 128, 128);
/// The colour of strategies that have none of their own.
const UNKNOWN: usize = 5;
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(240, 228, 66),
    RGBColor(0, 0, 0),
];

/// The colour of a strategy; unknown ones share one.
pub fn of_strategy(name: &str) -> RGBColor {
    if name == FLOOR {
        return GREY;
    }
    let known = STRATEGIES.iter().position(|strategy| *strategy == name);
    of_index(known.unwrap_or(UNKNOWN))
}

/// The colour of the part at `index`.
pub fn of_index(index: usize) -> RGBColor {
    COLOURS.get(index % COLOURS.len()).copied().unwrap_or(BLACK)
}
