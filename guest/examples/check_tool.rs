//! Checks a registry of tools as the image build, the agent and the guest do, and shows the command
//! that a call becomes.
//!
//! ```text
//! cargo run -p guest --example check_tool -- guest/registry/tools.json echo '{"message": "hello"}'
//! ```

use std::error::Error;

use guest::registry::Registry;
use serde_json::{Map, Value};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, call @ ..] = arguments.as_slice() else {
        return Err("usage: check_tool TOOLS.JSON [TOOL PARAMS]".into());
    };
    // Every keyword that the registry does not know is an error: nothing is ignored in silence.
    let registry = Registry::parse(&std::fs::read_to_string(file)?)?;
    if let [tool, params] = call {
        let params: Map<String, Value> = serde_json::from_str(params)?;
        let spec = registry.check(tool, &params)?;
        println!("runs {:?}", registry.argv(tool, &params)?);
        println!("for at most {} ms, in {} MiB", spec.limits.deadline_ms, spec.limits.memory_mib);
        return Ok(());
    }
    for tool in registry.tools() {
        println!("{:<16} {}", tool.name, tool.description);
    }
    Ok(())
}
