//! What a command costs with everything real: from the last byte of its envelope until its result
//! is on the socket, `echo` in a Linux guest, reset and verification included. Then what the agent
//! costs without commands. The agent keeps the times of its latest 1024 commands.
//!
//! `BSM_AGENT_BIN` and `BSM_IMAGE_DIR` name the agent and its image.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brainstorm_agent::bench::{Distribution, Report};
use dev_relay::{Config, DevRelay, DispatchOptions};
use serde_json::{Value, json};
use served_agent::{LIMIT, ServedAgent};

const PHASES: [&str; 8] = ["verify", "store", "ack", "wait", "execute", "reset", "send", "total"];
/// Clock ticks a second in `/proc`, proc(5): always 100 on x86.
const TICKS: f64 = 100.0;

#[derive(clap::Args)]
pub struct Options {
    /// Commands, one after the other
    #[arg(long, default_value_t = 1000)]
    commands: u64,
    /// Seconds without commands, afterwards
    #[arg(long, default_value_t = 300)]
    idle_seconds: u64,
}

/// Starts relay and agent, sends commands, then leaves the agent alone.
pub fn measure(options: &Options) -> Result<Report> {
    tokio::runtime::Runtime::new()?.block_on(measure_with(options))
}

async fn measure_with(options: &Options) -> Result<Report> {
    let mut report = Report::new("commands");
    // Everything may be emulated, the relay included.
    let config = Config { ack_timeout: Duration::from_secs(30), ..Config::default() };
    let relay = DevRelay::start(config).await?;
    let mut agent = ServedAgent::with_machines(&relay);
    agent.start();
    agent.session(&relay).await;
    for _ in 0..options.commands {
        let dispatch = DispatchOptions::default();
        let mut command =
            relay.dispatch(agent.id(), "echo", &json!({"message": "x"}), &dispatch)?;
        ensure!(command.outcome(LIMIT).await?.is_completed(), "{}", agent.log());
    }
    add_phases(&agent, &mut report)?;

    let before = processor_seconds(&agent)?;
    report.note(format!("memory, warm and idle: {}", memory_kib(&agent)?));
    tokio::time::sleep(Duration::from_secs(options.idle_seconds)).await;
    let used = processor_seconds(&agent)? - before;
    let name = format!("processor time in {} s without commands", options.idle_seconds);
    report.value(name, used, "s", None);
    report.note(format!("memory afterwards: {}", memory_kib(&agent)?));
    ensure!(relay.violations().is_empty(), "{:?}", relay.violations());
    Ok(report)
}

fn add_phases(agent: &ServedAgent, report: &mut Report) -> Result<()> {
    let status: Value = serde_json::from_slice(&agent.command(&["status", "--json"]).stdout)?;
    let recent = &status["recent"];
    let count = recent["commands"].as_u64().context("the status counts no commands")?;
    for phase in PHASES {
        let of = |name: &str| {
            recent[phase][name].as_f64().with_context(|| format!("no {name} of {phase}"))
        };
        let distribution = Distribution {
            p50_us: of("p50_us")?,
            p90_us: of("p90_us")?,
            p99_us: of("p99_us")?,
            max_us: of("max_us")?,
        };
        report.add_distribution(phase, count as usize, distribution, None);
    }
    Ok(())
}

/// Processor time of the agent and the process that keeps its key, in seconds.
fn processor_seconds(agent: &ServedAgent) -> Result<f64> {
    let mut ticks = 0;
    for pid in agent.processes() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Fields 14 and 15, proc(5); the name in the second may hold anything.
        let (_, after_name) = stat.rsplit_once(')').context("a stat without a name")?;
        for field in after_name.split_ascii_whitespace().skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(ticks as f64 / TICKS)
}

/// What each process holds, in the kernel's own words.
fn memory_kib(agent: &ServedAgent) -> Result<String> {
    let of = |pid: i32| -> Result<String> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        };
        let fields = ["Rss:", "Pss:", "Private_Dirty:", "Shared_Dirty:"].map(field);
        Ok(format!("process {pid}: {}", fields.join(", ")))
    };
    let processes = agent.processes().into_iter().map(of).collect::<Result<Vec<_>>>()?;
    Ok(processes.join("; "))
}
