//! `brainstorm-agent tools`

use std::process::ExitCode;

use clap::Args;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use guest::registry::{ToolSpec, Track};
use serde_json::Value;

use super::{Exit, terminal};
use crate::config::Config;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print the registry as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let source = &config.sandbox.image;
    let mut tools = match source.manifest() {
        Ok(Some(manifest)) => manifest.tools,
        Ok(None) => {
            let place = source.dir.display();
            let error = format!(
                "there is no manifest.json in {place}, so its tools are unknown: build an image \
                 with `cargo xtask image`, or say where one is with --image-dir"
            );
            return terminal::complain(&error, Exit::ExecutorFailed);
        }
        Err(error) => return terminal::complain(&error, Exit::ExecutorFailed),
    };
    for tool in &mut tools {
        tool.enabled |= config.sandbox.enable_tools.contains(&tool.name);
    }
    terminal::show(&tools, arguments.json, || table(&tools, terminal::width()))
}

fn table(tools: &[ToolSpec], width: u16) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .force_no_tty();
    table.set_header(["Tool", "Track", "Enabled", "Params", "What it does"]);
    for tool in tools {
        table.add_row([
            tool.name.as_str(),
            track(tool.track),
            if tool.enabled { "yes" } else { "no" },
            &params(&tool.params),
            &tool.description,
        ]);
    }
    format!("{table}\nRun one: brainstorm-agent exec TOOL -p KEY=VALUE\n")
}

fn track(track: Track) -> &'static str {
    match track {
        Track::DataProvider => "data_provider",
        Track::Mutator => "mutator",
    }
}

/// One parameter per line: name and type; optional ones in brackets.
fn params(schema: &Value) -> String {
    let required: Vec<&str> = match schema.get("required").and_then(Value::as_array) {
        Some(names) => names.iter().filter_map(Value::as_str).collect(),
        None => Vec::new(),
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    let lines = properties.into_iter().flatten().map(|(name, property)| {
        let kind = property.get("type").and_then(Value::as_str).unwrap_or("any");
        if required.contains(&name.as_str()) {
            format!("{name}: {kind}")
        } else {
            format!("[{name}: {kind}]")
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn params_show_type_and_whether_they_are_needed() {
        let schema = json!({
            "type": "object",
            "properties": {"path": {"type": "string"}, "depth": {"type": "integer"}, "x": {}},
            "required": ["path"],
        });
        let text = params(&schema);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.contains(&"path: string") && lines.contains(&"[depth: integer]"));
        assert!(lines.contains(&"[x: any]"));
        assert_eq!(params(&json!({"type": "object"})), "");
    }
}
