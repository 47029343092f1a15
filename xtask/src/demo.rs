//! Shows the product at work: tools that run in a real guest, with their real output.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::build;
use crate::nested::job::{Finished, Job, Observer, Stream};
use crate::nested::pass_on::pass_on;
use crate::nested::{BENCH_VCPUS, Choice, On, Queue, Runner};
use crate::run_tests::GuestFiles;

/// Arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Where the guests run, instead of where a probe of KVM says
    #[arg(long, value_enum, env = "BSM_RUN_ON")]
    on: Option<On>,
    /// Minutes after which a nested machine is ended
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// One command line, and what a newcomer should see in it.
struct DemoStep {
    program: DemoProgram,
    arguments: &'static [&'static str],
    explanation: &'static str,
}

/// The agent that lets its machines be tampered with.
const TO_TAMPER: &str = "agent-to-tamper";

const STEPS: &[DemoStep] = &[
    DemoStep {
        program: DemoProgram::Agent,
        arguments: &["exec", "uname"],
        explanation: "Boots a microVM, runs one tool in it, prints what the tool printed: \
                      the guest's kernel, not this machine's.",
    },
    DemoStep {
        program: DemoProgram::Agent,
        arguments: &["exec", "disk_usage"],
        explanation: "A fresh microVM with its own disk, which is thrown away afterwards.",
    },
    DemoStep {
        program: DemoProgram::Agent,
        arguments: &["exec", "uname", "--json"],
        explanation: "The same for programs: exit status, output, and the hash chain over it.",
    },
    DemoStep {
        program: DemoProgram::Reset,
        arguments: &[],
        explanation: "One microVM for many commands: what a tool left behind is gone after a \
                      reset, which costs what its dirty pages cost.",
    },
    DemoStep {
        program: DemoProgram::Relay,
        arguments: &[],
        explanation: "A relay sends signed commands to an enrolled agent: tools run in its \
                      microVM, each reset is verified, and the results come back. Then one \
                      machine is tampered with: the agent notices, stops, explains, and goes on \
                      when a person has said why.",
    },
];

/// What a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DemoProgram {
    /// The agent's command line.
    Agent,
    /// The example `reset`.
    Reset,
    /// The relay's example `demo`.
    Relay,
}

/// Builds the image and the agent and runs the steps. Fails where a step does.
pub fn run(arguments: &DemoArgs) -> Result<()> {
    let workspace = crate::workspace::root()?;
    let files = GuestFiles::build(&workspace)?;
    let packages = ["--package", "brainstorm-agent", "--package", "dev-relay"];
    let examples =
        build(&workspace, &[&["build", "--locked", "--examples"], &packages[..]].concat())?;
    let example = |target: &str| {
        let mut found = examples.iter().filter(|e| e.kind == "example" && e.target == target);
        let found = found.next().with_context(|| format!("cargo built no example {target}"))?;
        anyhow::Ok(found.path.display().to_string())
    };
    let (reset, relay) = (example("reset")?, example("demo")?);
    let to_tamper = ["build", "--locked", "--package", "integration-tests", "--bin", TO_TAMPER];
    let mut to_tamper = build(&workspace, &to_tamper)?.into_iter();
    let to_tamper = to_tamper.find(|e| e.target == TO_TAMPER);
    let to_tamper = to_tamper.with_context(|| format!("cargo built no {TO_TAMPER}"))?;
    let to_tamper = to_tamper.path.display().to_string();
    let choice = Choice::make(arguments.on);
    let runner =
        Runner::prepare(choice.on, Duration::from_secs(60 * arguments.limit), BENCH_VCPUS)?;
    println!("Guests run {}: {}.", runner.describe(), choice.reason);
    if choice.on == On::Nested {
        println!(
            "Everything in there is emulated: expect seconds where hardware takes a fraction."
        );
    }
    let jobs: Vec<Job> = STEPS
        .iter()
        .map(|step| {
            let agent = files.agent.display().to_string();
            let image = files.image.display().to_string();
            let (label, mut argv) = match step.program {
                DemoProgram::Agent => (
                    format!("brainstorm-agent {}", step.arguments.join(" ")),
                    vec![agent, "--image-dir".into(), image],
                ),
                DemoProgram::Reset => {
                    ("cargo run --example reset".to_owned(), vec![reset.clone(), image])
                }
                DemoProgram::Relay => (
                    "cargo run --package dev-relay --example demo".to_owned(),
                    vec![relay.clone(), agent, image, "--tamper".into(), to_tamper.clone()],
                ),
            };
            argv.extend(step.arguments.iter().map(|&argument| argument.to_owned()));
            Job {
                label,
                argv,
                directory: workspace.clone(),
                environment: files.environment().collect(),
            }
        })
        .collect();
    let mut narrator = Narrator { jobs: &jobs, at_line_start: true, failed: Vec::new() };
    let queue = Queue::new(jobs.clone());
    runner.run(&queue, &mut narrator)?;
    if narrator.failed.is_empty() {
        println!("\nThat was the demonstration; every command above succeeded.");
        Ok(())
    } else {
        bail!("failed: {}", narrator.failed.join(", "))
    }
}

/// Prints each command before its output and its time after it.
struct Narrator<'a> {
    jobs: &'a [Job],
    at_line_start: bool,
    failed: Vec<String>,
}

impl Observer for Narrator<'_> {
    fn started(&mut self, index: usize) {
        let explanation = STEPS.get(index).map_or("", |step| step.explanation);
        println!("\n# {explanation}\n$ {}", self.label(index));
        self.at_line_start = true;
    }

    fn output(&mut self, _: usize, stream: Stream, bytes: &[u8]) {
        pass_on(stream, bytes);
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
    }

    fn finished(&mut self, index: usize, finished: &Finished) {
        if !self.at_line_start {
            println!();
        }
        println!("({}, {:.2} s)", finished.ended, finished.took.as_secs_f64());
        if !finished.ended.is_success() {
            self.failed.push(self.label(index).to_owned());
        }
    }
}

impl Narrator<'_> {
    fn label(&self, index: usize) -> &str {
        self.jobs.get(index).map_or("unknown", |job| &job.label)
    }
}
