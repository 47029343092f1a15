//! `brainstorm-agent status`

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use console::style;
use serde_json::Value;

use super::{Exit, terminal};
use crate::config::Config;
use crate::degraded::IncidentRecord;
use crate::service::ask;
use crate::store::StateDir;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,

    /// Print the metrics in Prometheus's text format instead.
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
}

/// Exits with 1 when an agent runs and takes no commands.
pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let socket = StateDir::control_socket_in(&config.run.state_dir);
    let word = if arguments.metrics { "metrics" } else { "status" };
    let answer = match ask(&socket, word) {
        Ok(answer) => answer,
        Err(error) => {
            if let Some(record) = IncidentRecord::load(&config.run.state_dir) {
                let summary = record.summary();
                terminal::say(&format_args!("{summary}; see `brainstorm-agent explain`"));
            }
            return terminal::complain(&error, Exit::ExecutorFailed);
        }
    };
    if arguments.metrics {
        return finish(terminal::print(answer.as_bytes()), true);
    }
    let status: Value = match serde_json::from_str(&answer) {
        Ok(status) => status,
        Err(error) => return terminal::complain(&error, Exit::ExecutorFailed),
    };
    let healthy = status["agent_health"] == "ok";
    let text = if arguments.json { answer } else { table(&status) };
    finish(terminal::print(text.as_bytes()), healthy)
}

fn finish(printed: std::io::Result<()>, healthy: bool) -> ExitCode {
    match printed {
        Ok(()) if healthy => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => terminal::complain(&error, Exit::ExecutorFailed),
    }
}

/// One line a fact.
fn table(status: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let ms = |value: &Value| format!("{:.1} ms", value.as_f64().unwrap_or_default() / 1000.0);
    let health = match status["agent_health"].as_str() {
        Some("ok") => style("ok").green().to_string(),
        _ => style("degraded").red().bold().to_string(),
    };
    let recent = &status["recent"];
    let machines = &status["pool"]["machines"];
    let rows = [
        ("endpoint", text(&status["endpoint_id"])),
        ("tenant", text(&status["tenant_id"])),
        ("relay", text(&status["relay"])),
        ("link", link(&status["link"])),
        ("health", health),
        ("trouble", text(&status["trouble"])),
        ("degraded", degraded(&status["degraded"])),
        ("sandbox", text(&status["sandbox_state"])),
        ("confined", confinement(&status["confinement"])),
        (
            "machines",
            format!(
                "{} clean, {} busy, {} resetting",
                text(&machines["clean"]),
                text(&machines["busy"]),
                text(&machines["resetting"])
            ),
        ),
        ("in flight", format!("{} of {}", text(&status["in_flight"]), text(&status["capacity"]))),
        ("commands", format!("{} completed, {} failed", status["completed"], status["failed"])),
        (
            "latency",
            format!(
                "p50 {}, p99 {} over the last {}",
                ms(&recent["total"]["p50_us"]),
                ms(&recent["total"]["p99_us"]),
                text(&recent["commands"])
            ),
        ),
        (
            "reset",
            format!(
                "p50 {}, p99 {}",
                ms(&recent["reset"]["p50_us"]),
                ms(&recent["reset"]["p99_us"])
            ),
        ),
        ("audit head", text(&status["audit_head"]["hash"])),
        ("up", format!("{} s, process {}", status["uptime_s"], status["pid"])),
    ];
    let mut table = String::new();
    for (name, value) in rows {
        // Writing to a string does not fail.
        let _ = writeln!(table, "{name:<11} {value}");
    }
    table
}

fn confinement(confinement: &Value) -> String {
    if confinement.is_null() {
        return "no".to_owned();
    }
    let files = confinement["landlock"].as_str().unwrap_or_default();
    let yes = |layer: &str| if confinement[layer] == true { "yes" } else { "no" };
    format!(
        "system calls {}, threads of vCPUs {}, stores {}, machines {}, files (Landlock) {files}, page \
         tables read by checks {}",
        yes("system_calls"),
        yes("vcpu_threads"),
        yes("store_threads"),
        yes("machine_threads"),
        yes("page_tables")
    )
}

fn degraded(degraded: &Value) -> String {
    let text = |field: &str| degraded[field].as_str().unwrap_or("-").to_owned();
    if degraded.is_null() {
        return "no".to_owned();
    }
    format!("since {}, {}: {}", text("since"), text("code"), text("why"))
}

fn link(link: &Value) -> String {
    let fields = link.as_object().into_iter().flatten();
    let words = fields.map(|(name, value)| match value {
        Value::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    });
    words.collect::<Vec<_>>().join(", ")
}
