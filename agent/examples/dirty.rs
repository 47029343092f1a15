//! Says which pages a command dirties: how many after a question, how many after a tool.
//!
//! ```text
//! cargo run -p brainstorm-agent --example dirty -- IMAGE_DIR
//! ```

use std::error::Error;

use sandbox::{ImageSource, KvmSandbox, QueryKind, Sandbox, SandboxConfig, ToolCall};
use serde_json::json;

const TURNS: usize = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let image = std::env::args().nth(1).ok_or("usage: dirty IMAGE_DIR")?;
    let sandbox = KvmSandbox::new(SandboxConfig::new(ImageSource::directory(image)));
    sandbox.boot()?;
    let median = |work: &dyn Fn() -> Result<(), Box<dyn Error>>| -> Result<_, Box<dyn Error>> {
        let mut pages = Vec::new();
        for _ in 0..TURNS {
            work()?;
            pages.push(sandbox.reset()?.report.dirty_pages);
        }
        pages.sort_unstable();
        Ok(pages[TURNS / 2])
    };
    let call = |tool: &str, params: serde_json::Value| {
        let params = params.as_object().cloned().unwrap_or_default();
        sandbox.execute_tool(ToolCall::new(tool, params)).map(|_| ())
    };
    println!("nothing: {} pages", median(&|| Ok(()))?);
    println!(
        "a question to the guest program: {} pages",
        median(&|| Ok(sandbox.query(QueryKind::MemUsage).map(|_| ())?))?
    );
    println!("echo: {} pages", median(&|| Ok(call("echo", json!({"message": "hello"}))?))?);
    println!(
        "uname, which no warm-up has run: {} pages",
        median(&|| Ok(call("uname", json!({}))?))?
    );
    Ok(())
}
