//! What a measurement found: one form for all, as a table for people and as JSON for programs.
//!
//! The JSON document has the fields of [`Report`]: `schema` names this form and its version, `host`
//! says which machine the figures are of, `rows` holds distributions in microseconds, `values` single
//! numbers with their unit, `notes` text. A row may hold every sample in `samples_us`, in order.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{Distribution, Host};

/// Name and version of the JSON form.
pub const SCHEMA: &str = "brainstorm-bench/1";

/// All results of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    benchmark: &'static str,
    host: Host,
    rows: Vec<ReportRow>,
    values: Vec<Single>,
    notes: Vec<String>,
    /// A table of its own, for measurements with more columns than a distribution has.
    #[serde(skip)]
    table: Option<String>,
}

#[derive(Debug, Serialize)]
struct ReportRow {
    name: String,
    /// Number of samples.
    n: usize,
    #[serde(flatten)]
    distribution: Distribution,
    #[serde(skip_serializing_if = "Option::is_none")]
    bar: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples_us: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Single {
    name: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bar: Option<String>,
}

impl Report {
    /// An empty report of this host.
    pub fn new(benchmark: &'static str) -> Self {
        Self {
            schema: SCHEMA,
            benchmark,
            host: Host::here(),
            rows: Vec::new(),
            values: Vec::new(),
            notes: Vec::new(),
            table: None,
        }
    }

    /// Adds the distribution of `samples` under `name`, beside the figure it is held against.
    pub fn add(&mut self, name: impl Into<String>, samples: &[Duration], bar: Option<&str>) {
        if !samples.is_empty() {
            let distribution = Distribution::of(samples.iter().copied());
            self.add_distribution(name, samples.len(), distribution, bar);
        }
    }

    /// Adds a distribution of `n` samples that exists already.
    pub fn add_distribution(
        &mut self,
        name: impl Into<String>,
        n: usize,
        distribution: Distribution,
        bar: Option<&str>,
    ) {
        let bar = bar.map(str::to_owned);
        let samples_us = Vec::new();
        self.rows.push(ReportRow { name: name.into(), n, distribution, bar, samples_us });
    }

    /// Adds a distribution with the samples that it is of, in microseconds.
    pub fn add_samples(
        &mut self,
        name: impl Into<String>,
        distribution: Distribution,
        samples_us: Vec<f64>,
    ) {
        let n = samples_us.len();
        self.rows.push(ReportRow { name: name.into(), n, distribution, bar: None, samples_us });
    }

    /// Adds one number, beside the figure it is held against.
    pub fn value(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bar: Option<&str>,
    ) {
        let bar = bar.map(str::to_owned);
        self.values.push(Single { name: name.into(), value, unit, bar });
    }

    /// Adds a line of text.
    pub fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// Shows `table` to people instead of the rows.
    pub fn show_instead(&mut self, table: String) {
        self.table = Some(table);
    }

    /// The report as a table and lines of text.
    pub fn to_text(&self) -> String {
        let Host { cpu, cpus, kernel, kvm } = &self.host;
        let mut lines = vec![format!(
            "{} on {cpu}, {cpus} processors, Linux {kernel}, KVM: {kvm}",
            self.benchmark
        )];
        match &self.table {
            Some(table) => lines.push(table.clone()),
            None if self.rows.is_empty() => {}
            None => lines.push(self.rows_as_table().to_string()),
        }
        for Single { name, value, unit, bar } in &self.values {
            let bar = bar.as_ref().map(|bar| format!(" (bar: {bar})")).unwrap_or_default();
            lines.push(format!("{name}: {value:.2} {unit}{bar}"));
        }
        lines.extend(self.notes.iter().cloned());
        lines.join("\n")
    }

    fn rows_as_table(&self) -> Table {
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
        table
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

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::bench::{CallRow, Footprint, Row as Resets, StepTimes};

    /// The document as a program that knows only the form reads it.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        schema: String,
        benchmark: String,
        host: Machine,
        rows: Vec<Distributed>,
        values: Vec<Number>,
        notes: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Machine {
        cpu: String,
        cpus: usize,
        kernel: String,
        kvm: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Distributed {
        name: String,
        n: usize,
        p50_us: f64,
        p90_us: f64,
        p99_us: f64,
        max_us: f64,
        bar: Option<String>,
        #[serde(default)]
        samples_us: Vec<f64>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Number {
        name: String,
        value: f64,
        unit: String,
        bar: Option<String>,
    }

    #[test]
    fn a_report_has_the_documented_form_and_nothing_else() {
        let mut report = Report::new("sample");
        report.add("reset", &[1, 2, 3, 4].map(Duration::from_micros), Some("<= 72 us"));
        report.add("nothing measured", &[], None);
        report.value("rate", 7867.0, "commands/s", None);
        report.note("quiet host");
        let document: Document =
            serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!((document.schema.as_str(), document.benchmark.as_str()), (SCHEMA, "sample"));
        let Machine { cpu, cpus, kernel, kvm } = document.host;
        assert!(!cpu.is_empty() && cpus > 0 && !kernel.is_empty() && !kvm.is_empty());
        let [row] = &document.rows[..] else { panic!("one row, not {}", document.rows.len()) };
        assert_eq!((row.name.as_str(), row.n, row.bar.as_deref()), ("reset", 4, Some("<= 72 us")));
        let found = [row.p50_us, row.p90_us, row.p99_us, row.max_us].map(|us| format!("{us:.0}"));
        assert_eq!(found, ["2", "4", "4", "4"]);
        let [number] = &document.values[..] else { panic!("one value") };
        assert_eq!((number.name.as_str(), number.unit.as_str()), ("rate", "commands/s"));
        assert!((number.value - 7867.0).abs() < 1e-9 && number.bar.is_none());
        assert_eq!(document.notes, ["quiet host"]);
        assert_eq!(row.samples_us, [0.0; 0]);
        let text = report.to_text();
        assert!(
            text.contains("rate: 7867.00 commands/s") && text.ends_with("\nquiet host"),
            "{text}"
        );
    }

    #[test]
    fn measured_resets_have_the_same_form_with_all_samples() {
        let row = Resets {
            guest: "micro".to_owned(),
            memory_mib: 128,
            vcpus: 1,
            dirty_pages: 7,
            tracking: "log".to_owned(),
            strategy: "copy-back".to_owned(),
            iterations: 2,
            reset: Distribution::default(),
            parts_us: StepTimes { collect: 3.0, ..StepTimes::default() },
            cycle: Distribution::default(),
            next_run: Distribution::default(),
            samples_us: vec![3.0, 3.0],
            drift_us: [0.0; 2],
            footprint: [Footprint::default(); 2],
            host: Host::here(),
            calls: vec![CallRow {
                name: "KVM_SET_REGS".to_owned(),
                per_reset: 1.5,
                one: Distribution::default(),
            }],
        };
        let json = serde_json::to_string(&row.report()).unwrap();
        let document: Document = serde_json::from_str(&json).unwrap();
        assert_eq!((document.schema.as_str(), document.benchmark.as_str()), (SCHEMA, "reset"));
        let names: Vec<_> = document.rows.iter().map(|row| (row.name.as_str(), row.n)).collect();
        let expected = [
            ("reset of a stopped machine", 2),
            ("with stop and resume", 2),
            ("the guest's next run", 2),
        ];
        assert_eq!(names[..3], expected);
        assert_eq!(names[3..], [("KVM_SET_REGS", 3)]);
        let samples: Vec<_> =
            document.rows[0].samples_us.iter().map(|us| format!("{us:.0}")).collect();
        assert_eq!(samples, ["3", "3"]);
        let collect = document.values.iter().find(|value| value.name == "step collect, median");
        assert_eq!(collect.map(|value| format!("{:.0}", value.value)).as_deref(), Some("3"));
    }
}
