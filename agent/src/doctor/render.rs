//! Drawing a report.

use std::fmt::Write;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};

use super::{Check, CheckStatus, DoctorReport};

/// How to draw.
#[derive(Debug, Clone, Copy)]
pub struct Drawing {
    /// Writes with terminal colours.
    pub colour: bool,
    /// Columns there are.
    pub width: u16,
}

/// A table with one row per check and, below it, the verdict.
pub fn render(report: &DoctorReport, drawing: Drawing) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(drawing.width);
    if drawing.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(["Check", "Result", "Found"]);
    for check in &report.checks {
        table.add_row([Cell::new(check.name), status(check.status), Cell::new(found(check))]);
    }
    let verdict = if report.fit {
        "This host is fit to run the agent."
    } else {
        "This host is NOT fit to run the agent: see the failed checks."
    };
    format!("{table}\n{verdict}\n")
}

fn status(status: CheckStatus) -> Cell {
    let (word, colour) = match status {
        CheckStatus::Ok => ("ok", Color::Green),
        CheckStatus::Warning => ("warning", Color::Yellow),
        CheckStatus::Failed => ("failed", Color::Red),
        CheckStatus::Skipped => ("skipped", Color::DarkGrey),
    };
    Cell::new(word).fg(colour).add_attribute(Attribute::Bold)
}

fn found(check: &Check) -> String {
    let mut text = check.finding.clone();
    if let Some(remedy) = &check.remedy {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n→ {remedy}");
    }
    text
}
