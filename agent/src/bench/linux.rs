//! Resets of a real Linux guest, each after a tool has run.

use super::{BenchError, ResetBench, Row, Samples};
use sandbox::{KvmConfig, KvmSandbox, Resets, Sandbox, SandboxSpec, ToolCall};

/// The tool that dirties the guest.
const TOOL: &str = "echo";
/// Resets before measuring.
const WARM_UP: u32 = 5;

/// Measures resets of the sandbox that `spec` names, with the strategy that `bench` names. `progress` is called after each.
pub fn measure(
    spec: &SandboxSpec,
    config: &KvmConfig,
    bench: &ResetBench,
    mut progress: impl FnMut(),
) -> Result<Row, BenchError> {
    let spec = spec.clone().with_resets(Resets::Unverified);
    let config = KvmConfig { strategy: bench.strategy, ..config.clone() };
    let sandbox = KvmSandbox::new(spec, config);
    sandbox.boot()?;
    let mut samples = Samples::new(bench.iterations);
    for iteration in 0..WARM_UP + bench.iterations {
        let params = serde_json::Map::from_iter([("message".to_owned(), "hello".into())]);
        let outcome = sandbox.execute_tool(ToolCall::new(TOOL, params))?;
        let (_, report) = sandbox.reset_reported()?;
        if iteration >= WARM_UP {
            samples.add(&report);
            samples.add_next_run(outcome.round_trip);
            progress();
        }
    }
    samples.end();
    let (_, left) = sandbox.reset_and_compare()?;
    sandbox.shutdown();
    if !left.is_empty() {
        return Err(BenchError::NotGolden(left.to_string()));
    }
    Ok(samples.row("linux", bench))
}
