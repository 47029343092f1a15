//! What every tool must fulfil, whoever wrote it.

use serde_json::Value;

use super::{ArgvPart, MAX_DEADLINE_MS, MAX_OUTPUT_BYTES, ToolSpec};

const MAX_NAME: usize = 256;

/// The first thing wrong with a tool.
pub fn check(spec: &ToolSpec) -> Result<(), String> {
    let name = spec.name.chars().count();
    require(
        (1..=MAX_NAME).contains(&name)
            && spec.name.chars().all(|c| c.is_ascii_graphic() && c != ','),
        "its name must be 1 to 256 printable ASCII characters without commas",
    )?;
    let Some(ArgvPart::Literal(program)) = spec.argv.first() else {
        return Err("its command must start with a literal path".into());
    };
    require(program.starts_with('/'), "the path of its program must be absolute")?;
    require(spec.params["type"] == "object", "its schema must be of type object")?;
    require(
        spec.params["additionalProperties"] == Value::Bool(false),
        "its schema must refuse additional properties",
    )?;
    for part in &spec.argv {
        if let ArgvPart::Param(part) = part
            && spec.params["properties"][&part.param].is_null()
        {
            return Err(format!("its schema does not know the parameter {:?}", part.param));
        }
    }
    let limits = spec.limits;
    require(
        (1..=MAX_DEADLINE_MS).contains(&limits.deadline_ms),
        "its deadline must be 1 to 600000 ms",
    )?;
    require(limits.output_bytes <= MAX_OUTPUT_BYTES, "it may keep at most 4 MiB of output")?;
    require(limits.memory_mib > 0 && limits.pids > 0, "it needs memory and processes")?;
    require(spec.estimated_duration_ms <= MAX_DEADLINE_MS, "its estimate is over 600000 ms")
}

fn require(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}
