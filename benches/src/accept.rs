//! From the moment a relay sends an envelope until it has the acknowledgement, over a loopback
//! WebSocket, with verification, nonce and journal durable on a real disk in between. Everything is
//! real but the machines.
//!
//! Single envelopes come one after the other. A burst is 256 envelopes at once, signed before the
//! clock starts, whose tools do nothing until all of them are acknowledged; the relay shares the
//! machine's processors with the agent.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use brainstorm_agent::bench::Report;
use dev_relay::{Config, DevRelay};
use serde_json::json;
use served_agent::ServedAgent;

const LIMIT: Duration = Duration::from_secs(60);
const IN_FLIGHT: usize = 256;
/// Longer than it takes to acknowledge a burst.
const IDLE_MS: u64 = 400;

#[derive(clap::Args)]
pub struct Options {
    /// The program `agent-under-test` of the integration tests
    agent_under_test: PathBuf,
    /// Envelopes one after the other
    #[arg(long, default_value_t = 1000)]
    singles: usize,
    /// Bursts of 256 envelopes
    #[arg(long, default_value_t = 20)]
    bursts: usize,
}

/// Starts relay and agent, and sends envelopes.
pub fn measure(options: &Options) -> Result<Report> {
    tokio::runtime::Runtime::new()?.block_on(measure_with(options))
}

async fn measure_with(options: &Options) -> Result<Report> {
    let (singles, bursts) = (options.singles, options.bursts);
    let program = options.agent_under_test.display().to_string();
    let relay = DevRelay::start(Config::default()).await?;
    let agent = ServedAgent::serving(&relay, &program).await;

    let mut times = Vec::with_capacity(singles);
    for _ in 0..singles {
        let envelope = relay.make_envelope(agent.id(), "echo", &json!({"message": "x"}))?;
        let envelope = envelope.sign()?;
        let mut command = relay.dispatch_envelope(agent.id(), &envelope)?;
        ensure!(command.outcome(LIMIT).await?.is_completed(), "a command failed");
        times.push(command.timings().to_ack().context("no acknowledgement")?);
    }
    let mut report = Report::new("accept");
    report.add("one envelope to its acknowledgement", &times, None);

    let mut rates = Vec::with_capacity(bursts);
    for _ in 0..bursts {
        let params = json!({"ms": IDLE_MS});
        let envelopes: Vec<_> = (0..IN_FLIGHT)
            .map(|_| Ok(relay.make_envelope(agent.id(), "sleep", &params)?.sign()?))
            .collect::<Result<_>>()?;
        let begun = Instant::now();
        let mut commands: Vec<_> = envelopes
            .iter()
            .map(|envelope| Ok(relay.dispatch_envelope(agent.id(), envelope)?))
            .collect::<Result<_>>()?;
        for command in &mut commands {
            command.acked(LIMIT).await?;
        }
        rates.push(IN_FLIGHT as f64 / begun.elapsed().as_secs_f64());
        for command in &mut commands {
            ensure!(command.outcome(LIMIT).await?.is_completed(), "a command failed");
        }
    }
    rates.sort_by(f64::total_cmp);
    if let (Some(least), Some(most)) = (rates.first(), rates.last()) {
        let name = format!("acknowledged with {IN_FLIGHT} at once, median of {bursts} bursts");
        report.value(name, rates[rates.len() / 2], "a second", None);
        report.note(format!("slowest burst {least:.0} a second, fastest {most:.0}"));
    }
    ensure!(relay.violations().is_empty(), "{:?}", relay.violations());
    Ok(report)
}
