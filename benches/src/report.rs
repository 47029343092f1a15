//! Rows of results, as a table for people and as JSON for programs.

use std::time::Duration;

use brainstorm_agent::bench::Distribution;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// All results of one run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// Number of samples.
    n: usize,
    #[serde(flatten)]
    distribution: Distribution,
    #[serde(skip_serializing_if = "Option::is_none")]
    bar: Option<String>,
}

impl Report {
    /// Adds the distribution of `samples` under `name`, beside the figure it is held against.
    pub fn add(&mut self, name: impl Into<String>, samples: &[Duration], bar: Option<&str>) {
        if !samples.is_empty() {
            self.rows.push(Row {
                name: name.into(),
                n: samples.len(),
                distribution: Distribution::of(samples.iter().copied()),
                bar: bar.map(str::to_owned),
            });
        }
    }

    /// Adds a line of text.
    pub fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// Prints everything to stdout.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["what", "n", "p50", "p90", "p99", "max", "bar"]);
        for row in &self.rows {
            let d = &row.distribution;
            let mut cells = vec![row.name.clone(), row.n.to_string()];
            cells.extend([d.p50_us, d.p90_us, d.p99_us, d.max_us].map(human));
            cells.push(row.bar.clone().unwrap_or_default());
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        for note in &self.notes {
            println!("{note}");
        }
        Ok(())
    }
}

fn human(us: f64) -> String {
    if us < 1000.0 {
        format!("{us:.1} us")
    } else if us < 1e6 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}
