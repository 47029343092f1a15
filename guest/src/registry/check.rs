//! What every registered tool must fulfil.

use serde_json::Value;

use super::argv::ParamPart;
use super::schema::Schema;
use super::{ArgvPart, MAX_DEADLINE_MS, MAX_MEMORY_MIB, MAX_OUTPUT_BYTES, MAX_PIDS, ToolSpec};

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
        match part {
            ArgvPart::Literal(text) => {
                require(!text.contains('\0'), "an argument cannot contain NUL")?;
            }
            ArgvPart::Param(part) => check_param(part, &spec.params["properties"][&part.param])?,
        }
    }
    check_limits(spec)
}

fn check_param(part: &ParamPart, schema: &Value) -> Result<(), String> {
    if schema.is_null() {
        return Err(format!("its schema does not know the parameter {:?}", part.param));
    }
    let Some(default) = &part.default else { return Ok(()) };
    // An argument is text; what it stands for may be a number.
    let text = Value::String(default.clone());
    let meanings = [Some(text), serde_json::from_str(default).ok()];
    let schema = Schema::compile(schema)?;
    if meanings.iter().flatten().any(|meaning| schema.check(meaning).is_ok()) {
        return Ok(());
    }
    Err(format!("its schema refuses the default {default:?} of {:?}", part.param))
}

fn check_limits(spec: &ToolSpec) -> Result<(), String> {
    let limits = spec.limits;
    require(
        (1..=MAX_DEADLINE_MS).contains(&limits.deadline_ms),
        "its deadline must be 1 to 600000 ms",
    )?;
    require(limits.output_bytes <= MAX_OUTPUT_BYTES, "it may keep at most 4 MiB of output")?;
    require((1..=MAX_MEMORY_MIB).contains(&limits.memory_mib), "its memory must be 1 to 8192 MiB")?;
    require((1..=MAX_PIDS).contains(&limits.pids), "it may have 1 to 1024 processes")?;
    // Size 0 would mean no limit to tmpfs.
    require(
        (1..=limits.memory_mib).contains(&limits.scratch_mib),
        "its /tmp must be 1 MiB or more and fit into its memory",
    )?;
    require(spec.estimated_duration_ms <= MAX_DEADLINE_MS, "its estimate is over 600000 ms")
}

fn require(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}
