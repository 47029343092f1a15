//! Results that are owed after an outage: how many a second reach a relay over a loopback WebSocket,
//! from when the session is seen until the last of them is there. The agent notes each page of them in a
//! journal on a real disk meanwhile. Everything is real but the machines, and the results, which are put
//! into the journal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use brainstorm_agent::bench::Report;
use brainstorm_agent::store::{Journal, NewCommand, StateDir};
use dev_relay::{Config, DevRelay};
use protocol::Timestamp;
use serde_json::json;
use served_agent::ServedAgent;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(120);
/// Results that are put into the journal together.
const AT_ONCE: usize = 500;

#[derive(clap::Args)]
pub struct Options {
    /// The program `agent-under-test` of the integration tests
    agent_under_test: PathBuf,
    /// Results that are owed
    #[arg(long, default_value_t = 10_000)]
    results: usize,
    /// Bytes of output in each
    #[arg(long, default_value_t = 1000)]
    output: usize,
}

/// Owes results, and starts relay and agent.
pub fn measure(options: &Options) -> Result<Report> {
    tokio::runtime::Runtime::new()?.block_on(measure_with(options))
}

async fn measure_with(options: &Options) -> Result<Report> {
    let relay = DevRelay::start(Config::default()).await?;
    let mut agent = ServedAgent::enrolled(&relay, &options.agent_under_test.display().to_string());
    owe(&agent, options).await?;

    let before = relay.next_frame();
    agent.start();
    agent.session(&relay).await;
    let begun = Instant::now();
    let arrived = || relay.next_frame().saturating_sub(before);
    while arrived() < options.results as u64 {
        ensure!(begun.elapsed() < LIMIT, "{} results arrived", arrived());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed();
    let mut report = Report::new("deliveries");
    let name =
        format!("owed results delivered, of {} with {} bytes", options.results, options.output);
    report.value(name, options.results as f64 / took.as_secs_f64(), "a second", None);
    Ok(report)
}

/// Puts results into the journal of an agent that does not run.
async fn owe(agent: &ServedAgent, options: &Options) -> Result<()> {
    let state = StateDir::open(&agent.state())?;
    let journal = Arc::new(Journal::open(&state.journal())?);
    let message = "x".repeat(options.output);
    let mut put = JoinSet::new();
    for number in 0..options.results {
        let id = format!("00000000-0000-4000-8000-{number:012}");
        let result = json!({
            "type": "CommandResult", "command_id": id, "endpoint_id": agent.id(),
            "session_id": "", "lifecycle_state": "failed", "payload": null,
            "error": {"code": "SANDBOX_TOOL_ERROR", "message": message},
            "evidence_hash": format!("sha256:{}", "0".repeat(64)), "resumed": false,
            "ts": Timestamp::now(),
        });
        let command = NewCommand {
            command_id: id.clone(),
            tenant_id: "t".into(),
            tool: "echo".into(),
            correlation_id: "c".into(),
            operator_id: "o".into(),
            accepted_at: Timestamp::now(),
        };
        let journal = Arc::clone(&journal);
        put.spawn(async move {
            journal.accept(command).await?;
            journal.result_ready(&id, result.to_string()).await?;
            anyhow::Ok(())
        });
        if put.len() >= AT_ONCE {
            put.join_next().await.transpose()?.transpose()?;
        }
    }
    while let Some(done) = put.join_next().await {
        done??;
    }
    Ok(())
}
