//! `bsm-redteam`: attacks a sandbox and an agent, and says what held.
//!
//! Settings come from the same flags, variables and file as those of `brainstorm-agent`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::builder::PossibleValuesParser;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};

use brainstorm_agent::cli::{Exit, SettingsArguments, logging, terminal};
use redteam::{
    Event, GUEST_DEFENCES, HOST_DEFENCES, Plan, ProbeReport, Registry, Report, Selection,
};
use sandbox::BACKEND_NAMES;

/// How often a probe that goes on is reported where no spinner is shown.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Attacks the sandbox with everything there is, and says whether it held. Exit code 0: all held.
#[derive(Debug, Parser)]
#[command(name = "bsm-redteam", version)]
struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,

    /// Say more on standard error; twice for everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// `all`, `adversarial`, `lat`, or names of probes separated by commas.
    #[arg(long, default_value = "all", value_parser = selection)]
    probes: Selection,

    /// Kind of sandbox to attack.
    #[arg(long, value_name = "BACKEND", default_value = BACKEND_NAMES[0], value_parser = PossibleValuesParser::new(BACKEND_NAMES))]
    sandbox: String,

    /// The agent, which one probe starts and kills [default: the one beside this program].
    #[arg(long, value_name = "FILE", env = "BSM_AGENT_BIN")]
    agent: Option<PathBuf>,

    /// How often batteries repeat what they measure.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    iterations: u32,

    /// How many machines run side by side where that matters.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=256))]
    machines: u32,

    /// Seconds a probe may take; batteries have two more for each iteration.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    budget: u64,

    /// Record how long boots, resets and commands take, and judge only whether they work: for
    /// hosts that are emulated.
    #[arg(long)]
    no_gates: bool,

    /// Leave out a defence, to see that probes notice; can be repeated.
    #[arg(long, value_name = "DEFENCE", value_delimiter = ',', value_parser = defences())]
    without: Vec<String>,

    /// Write the report as JSON to a file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print the report as JSON.
    #[arg(long)]
    json: bool,

    /// Write the report as a web page, with the distributions of what was measured.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn selection(text: &str) -> Result<Selection, String> {
    let Ok(selection) = text.parse::<Selection>();
    // An unknown name is wrong usage, not a run that fails.
    let known = Registry::built_in().select(&selection);
    known.map(|_| selection).map_err(|error| error.to_string())
}

/// The agent that was built with this program.
fn agent_beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("brainstorm-agent")
}

fn defences() -> PossibleValuesParser {
    PossibleValuesParser::new([GUEST_DEFENCES.as_slice(), &HOST_DEFENCES].concat())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Alarms are what an attack wants, and the report says which went off.
    if arguments.verbose > 0 {
        logging::start(arguments.verbose, false);
    }
    let config = match arguments.settings.load(arguments.settings.flags()) {
        Ok(config) => config,
        Err(error) => return terminal::complain(&error, Exit::Usage),
    };
    let Some(backend) = config.backend(&arguments.sandbox) else {
        return terminal::complain(&format!("no backend {}", arguments.sandbox), Exit::Usage);
    };
    let plan = Plan {
        sandbox: config.sandbox,
        backend,
        agent: arguments.agent.clone().unwrap_or_else(agent_beside),
        selection: arguments.probes.clone(),
        iterations: arguments.iterations,
        machines: arguments.machines,
        budget: Duration::from_secs(arguments.budget),
        gates: !arguments.no_gates,
        without: arguments.without.clone(),
    };
    let shows = !arguments.json;
    let spinner = terminal::spinner("attacking");
    let mut told = Instant::now();
    let report = redteam::run(plan, &Registry::built_in(), |event| match event {
        Event::Started(probe) => {
            told = Instant::now();
            spinner.set_message(probe.name);
        }
        Event::Working { probe, turn, of } => {
            let message = working(probe.name, turn, of);
            // A file or a pipe shows no spinner.
            if spinner.is_hidden() && told.elapsed() > TELL_EVERY {
                eprintln!("{message}");
                told = Instant::now();
            }
            spinner.set_message(message);
        }
        Event::Ended(probe) => {
            spinner.suspend(|| {
                if shows {
                    // The reader of standard output may be gone; the report counts.
                    let _ = terminal::print(line(probe).as_bytes());
                }
            });
        }
        Event::Stopped(reason) => {
            spinner.suspend(|| eprintln!("the sandbox failed, the rest is skipped: {reason}"));
        }
    });
    spinner.finish_and_clear();
    let report = match report {
        Ok(report) => report,
        Err(error) => return terminal::complain(&error, Exit::Usage),
    };
    match hand_over(&arguments, &report) {
        Err(error) => terminal::complain(&error, Exit::Refused),
        Ok(()) if report.summary.is_clean() => ExitCode::SUCCESS,
        Ok(()) => Exit::Refused.into(),
    }
}

fn hand_over(arguments: &Arguments, report: &Report) -> Result<(), String> {
    let failed = |path: &PathBuf| {
        let path = path.display().to_string();
        move |e: std::io::Error| format!("cannot write the report to {path}: {e}")
    };
    if let Some(path) = &arguments.output {
        let text = serde_json::to_vec_pretty(report).map_err(|e| e.to_string())?;
        fs::write(path, text).map_err(failed(path))?;
    }
    if let Some(path) = &arguments.html {
        fs::write(path, redteam::page(report)).map_err(failed(path))?;
    }
    let printed = if arguments.json {
        terminal::print_json(report)
    } else {
        terminal::print(summary(report).as_bytes())
    };
    printed.map_err(|e| format!("cannot print the report: {e}"))
}

/// The line about a probe that goes on.
fn working(name: &str, turn: u32, of: u32) -> String {
    if of == 0 { name.to_owned() } else { format!("{name}: {turn} of {of}") }
}

/// The line about a probe that has ended.
fn line(probe: &ProbeReport) -> String {
    let (mark, reason) = match (&probe.error_message, probe.passed) {
        (Some(error), _) => (console::style("ERRORED").yellow().bold(), error.as_str()),
        (None, true) => (console::style("held   ").green(), probe.reason.as_str()),
        (None, false) => (console::style("FAILED ").red().bold(), probe.reason.as_str()),
    };
    format!("{mark} {:<26} {:>9.1} ms  {reason}\n", probe.name, probe.duration_ms)
}

fn summary(report: &Report) -> String {
    let counts = report.summary;
    let mut text = String::new();
    if !report.latency.is_empty() {
        text += &latency_table(report);
    }
    for note in &report.notes {
        text += "note: ";
        text += note;
        text.push('\n');
    }
    text + &format!(
        "{} probes: {} held, {} failed, {} errored, {} skipped; the sandbox is {}\n",
        counts.total,
        counts.passed,
        counts.failed,
        counts.errored,
        counts.skipped,
        report.final_sandbox_state.replace('_', " "),
    )
}

fn latency_table(report: &Report) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(terminal::width())
        .force_no_tty();
    table.set_header(["in ms", "n", "p50", "p90", "p95", "p99", "mean", "min", "max"]);
    for (name, l) in &report.latency {
        let mut row = vec![name.clone(), l.samples.to_string()];
        let all = [l.p50_ms, l.p90_ms, l.p95_ms, l.p99_ms, l.mean_ms, l.min_ms, l.max_ms];
        row.extend(all.map(|ms| format!("{ms:.2}")));
        table.add_row(row);
    }
    format!("{table}\n")
}
