//! The report as a web page that needs nothing else.

use std::fmt::Write;

use crate::latency::Latency;
use crate::report::{ProbeReport, Report};

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;border-bottom:\
1px solid #d0d7de;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}\
.held{color:#116329}.failed{color:#a40e26;font-weight:bold}.errored{color:#7d4e00;font-weight:bold}\
pre{background:#f6f8fa;padding:.6rem;overflow:auto;max-height:20rem;font-size:.8rem}\
svg{width:100%;height:auto;background:#f6f8fa}summary{cursor:pointer}";
/// Size of a drawing, in user units of SVG.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 160.0;
const BARS: u32 = 64;

/// Writes the report as one HTML page without references to other files.
pub fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Red team report</title>\
         <style>{STYLE}</style><h1>Red team report</h1>"
    );
    let counts = report.summary;
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<p>{} &middot; backend {} &middot; sandbox {}</p><p><b>{}</b> probes: \
         <span class=\"held\">{} held</span>, <span class=\"failed\">{} failed</span>, \
         <span class=\"errored\">{} errored</span>, {} skipped</p>",
        escape(&report.generated_at),
        report.backend,
        escape(&report.final_sandbox_state),
        counts.total,
        counts.passed,
        counts.failed,
        counts.errored,
        counts.skipped,
    );
    page += "<table><tr><th>Probe</th><th>Verdict</th><th>ms</th><th>Why</th></tr>";
    for probe in &report.probes {
        row(&mut page, probe);
    }
    page += "</table>";
    for (name, latency) in &report.latency {
        let _ = write!(page, "<h2>{} latency</h2>", escape(name));
        distribution(&mut page, latency);
    }
    if !report.notes.is_empty() {
        page += "<h2>Notes</h2><ul>";
        for note in &report.notes {
            let _ = write!(page, "<li>{}</li>", escape(note));
        }
        page += "</ul>";
    }
    page
}

fn row(page: &mut String, probe: &ProbeReport) {
    let verdict = match (probe.errored, probe.passed) {
        (true, _) => "errored",
        (false, true) => "held",
        (false, false) => "failed",
    };
    let why = probe.error_message.as_deref().unwrap_or(&probe.reason);
    let evidence = serde_json::to_string_pretty(&probe.evidence).unwrap_or_default();
    let _ = write!(
        page,
        "<tr><td><b>{}</b></td><td class=\"{verdict}\">{verdict}</td>\
         <td class=\"n\">{:.1}</td><td>{}<br><small>{}</small><details><summary>evidence</summary>\
         <pre>{}</pre></details></td></tr>",
        escape(&probe.name),
        probe.duration_ms,
        escape(why),
        escape(&probe.description),
        escape(&evidence),
    );
}

/// Draws a histogram up to the 99th percentile, and a table of the figures. The last bar holds the
/// samples beyond it.
fn distribution(page: &mut String, latency: &Latency) {
    let from = latency.min_ms;
    let width = (latency.p99_ms - from).max(0.001) / f64::from(BARS - 1);
    let below = |bar: u32| {
        let edge = if bar < BARS { from + width * f64::from(bar) } else { f64::INFINITY };
        latency.sorted.partition_point(|sample| *sample < edge)
    };
    let bars: Vec<u32> =
        (0..BARS).map(|bar| count(below(bar + 1).saturating_sub(below(bar)))).collect();
    let most = f64::from(bars.iter().copied().max().unwrap_or_default().max(1));
    let step = WIDTH / f64::from(BARS);
    let _ = write!(page, "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">", HEIGHT + 20.0);
    for (at, bar) in (0..BARS).zip(&bars) {
        let height = f64::from(*bar) / most * HEIGHT;
        let _ = write!(
            page,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"#0969da\"/>",
            f64::from(at) * step,
            HEIGHT - height,
            step - 1.0,
        );
    }
    let base = HEIGHT + 15.0;
    let _ = write!(
        page,
        "<text x=\"2\" y=\"{base}\" font-size=\"12\">{from:.2} ms</text><text x=\"{:.1}\" \
         y=\"{base}\" font-size=\"12\" text-anchor=\"end\">{:.2} ms and more</text></svg>",
        WIDTH - 2.0,
        latency.p99_ms,
    );
    page.push_str("<table><tr><th>n</th><th>p50</th><th>p90</th><th>p95</th><th>p99</th>");
    page.push_str("<th>mean</th><th>min</th><th>max</th></tr><tr>");
    let _ = write!(page, "<td class=\"n\">{}</td>", latency.samples);
    let l = latency;
    for ms in [l.p50_ms, l.p90_ms, l.p95_ms, l.p99_ms, l.mean_ms, l.min_ms, l.max_ms] {
        let _ = write!(page, "<td class=\"n\">{ms:.3}</td>");
    }
    page.push_str("</tr></table>");
}

fn count(samples: usize) -> u32 {
    u32::try_from(samples).unwrap_or(u32::MAX)
}

/// Escapes text for HTML: some of it comes from guests.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::Summary;

    #[test]
    fn what_a_guest_said_is_text_and_every_sample_is_drawn() {
        let samples: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        let report = Report {
            schema_version: "1.0",
            generated_at: "now".into(),
            backend: "kvm",
            final_sandbox_state: "ready".into(),
            probes: Vec::new(),
            latency: BTreeMap::from([("boot".to_owned(), Latency::of(&samples))]),
            summary: Summary::default(),
            notes: vec!["<script>alert('x')</script>".into()],
        };
        let page = page(&report);
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
        assert_eq!(page.matches("<rect").count(), BARS as usize);
        assert!(page.contains("99.000") && !page.contains("http"));
    }
}
