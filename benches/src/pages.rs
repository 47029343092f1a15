//! Pages that a command dirties: after nothing, after a question to the guest, after a tool.

use std::path::Path;

use anyhow::Result;
use brainstorm_agent::bench::Report;
use sandbox::{ImageSource, KvmConfig, KvmSandbox, QueryKind, Sandbox, SandboxSpec, ToolCall};
use serde_json::json;

/// Resets after each kind of work, of which the median counts.
const TURNS: usize = 9;

/// Counts the pages that each reset restores.
pub fn measure(image_dir: &Path) -> Result<Report> {
    let spec = SandboxSpec::new(ImageSource::directory(image_dir));
    let sandbox = KvmSandbox::new(spec, KvmConfig::default());
    sandbox.boot()?;
    let median = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
        let mut pages = Vec::new();
        for _ in 0..TURNS {
            work()?;
            pages.push(sandbox.reset()?.dirty_pages);
        }
        pages.sort_unstable();
        Ok(pages[TURNS / 2] as f64)
    };
    let call = |tool: &str, params: serde_json::Value| -> Result<()> {
        let params = params.as_object().cloned().unwrap_or_default();
        sandbox.execute_tool(ToolCall::new(tool, params))?;
        Ok(())
    };
    let mut report = Report::new("pages");
    report.value("nothing", median(&|| Ok(()))?, "pages", None);
    let question = median(&|| Ok(sandbox.query(QueryKind::MemUsage).map(|_| ())?))?;
    report.value("a question to the guest program", question, "pages", None);
    let echo = median(&|| call("echo", json!({"message": "hello"})))?;
    report.value("echo", echo, "pages", None);
    report.value(
        "uname, which no warm-up runs",
        median(&|| call("uname", json!({})))?,
        "pages",
        None,
    );
    Ok(report)
}
