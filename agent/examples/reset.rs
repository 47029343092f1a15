//! Runs tools that leave traces in a microVM, resets it, and looks again.
//!
//! ```text
//! cargo run -p brainstorm-agent --example reset -- IMAGE_DIR
//! ```

use std::error::Error;
use std::time::Instant;

use sandbox::{ImageSource, KvmConfig, KvmSandbox, Sandbox, SandboxSpec, ToolCall};
use serde_json::{Value, json};

const RESETS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let image = std::env::args().nth(1).ok_or("usage: reset IMAGE_DIR")?;
    let spec = SandboxSpec::new(ImageSource::directory(image));
    let sandbox = KvmSandbox::new(spec, KvmConfig::default());
    let boot = sandbox.boot()?;
    println!(
        "booted in {:.0?}, captured in {:.0?}",
        boot.total.saturating_sub(boot.capture),
        boot.capture
    );

    let before = listing(&sandbox)?;
    println!("\n$ ls /work\n{before}");
    for name in ["secret", "notes"] {
        let path = format!("/work/{name}");
        run(&sandbox, "write_file", &json!({"path": path, "content": "left behind"}))?;
    }
    println!("two files written\n\n$ ls /work\n{}", listing(&sandbox)?);

    let (outcome, left) = sandbox.reset_and_compare()?;
    println!(
        "reset: {} dirty pages and {} disk blocks restored in {} us; compared with the golden \
         state bit for bit, what differs: {left}",
        outcome.dirty_pages,
        outcome.disk_blocks,
        outcome.phases.total().as_micros()
    );
    let after = listing(&sandbox)?;
    println!("\n$ ls /work\n{after}");
    if before != after || !left.is_empty() {
        return Err("the reset left something behind".into());
    }

    let mut took = Vec::new();
    for _ in 0..RESETS {
        run(&sandbox, "echo", &json!({"message": "hello"}))?;
        let begun = Instant::now();
        sandbox.reset()?;
        took.push(begun.elapsed().as_micros());
    }
    took.sort_unstable();
    println!("{RESETS} more resets, each after an echo: median {} us", took[RESETS / 2]);
    Ok(())
}

fn listing(sandbox: &KvmSandbox) -> Result<String, Box<dyn Error>> {
    run(sandbox, "ls", &json!({"path": "/work"}))
}

fn run(sandbox: &KvmSandbox, tool: &str, params: &Value) -> Result<String, Box<dyn Error>> {
    let params = params.as_object().cloned().unwrap_or_default();
    let outcome = sandbox.execute_tool(ToolCall::new(tool, params))?;
    if outcome.exit_code != 0 {
        return Err(format!("{tool} ended with {}", outcome.exit_code).into());
    }
    Ok(String::from_utf8(outcome.stdout)?)
}
