//! The command line. Each subcommand is one file here and keeps to parsing, calling and printing.

mod audit;
mod baselines;
mod bench;
mod canonicalize;
mod clear;
mod doctor;
mod enroll;
mod envelope;
mod evidence;
mod exec;
mod exit;
mod explain;
mod install;
pub mod logging;
mod redteam;
mod run;
mod settings;
mod snapshot;
mod status;
mod stdin;
pub mod terminal;
mod tools;

pub use exit::Exit;
pub use settings::SettingsArguments;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  brainstorm-agent doctor                       Is this host fit?
  brainstorm-agent tools                        What can be run?
  brainstorm-agent exec echo -p message=hello   Run a tool in a fresh microVM
  brainstorm-agent exec cat --params '{\"path\":\"/etc/hostname\"}' --json
  brainstorm-agent enroll --relay https://relay.example --token-file token --tenant-key HEX
                                                Become an endpoint of a relay
  brainstorm-agent install                      Measure what every start is compared with
  brainstorm-agent run --relay wss://relay.example   Take its commands
  brainstorm-agent status                       How is the agent that runs?
  brainstorm-agent explain                      Why does it take no commands?
  brainstorm-agent clear --reason TEXT          Have it take them again
  brainstorm-agent envelope verify --public-key HEX < envelope.json
                                                Would it be taken, and if not, why?

Exit codes:
  of `exec`   the tool's own; 137 deadline passed, 127 unknown tool, 254 bad parameters
  1    the checked input is not right, 64   `doctor` found this host unfit
       `enroll` was refused, or the    125  the tool could not be run, or the
       agent takes no commands              agent cannot serve
  2    wrong usage or settings         126  the microVM did not become ready

Settings come from flags, then environment (BSM_IMAGE_DIR, BSM_KERNEL, BSM_ROOTFS, BSM_VCPUS,
BSM_MEMORY_MIB, BSM_CID, BSM_GUEST_PORT, BSM_ENABLE_TOOLS, BSM_STATE_DIR, BSM_RELAY, BSM_MACHINES,
BSM_QUEUE), then the configuration file.";

/// Takes signed commands from a relay and runs each in a microVM that lives in this process.
#[derive(Debug, Parser)]
#[command(name = "brainstorm-agent", version, about, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    settings: SettingsArguments,

    /// Say more on standard error; twice for everything. BSM_LOG takes finer filters.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a microVM, run one tool in it, print what the tool prints.
    Exec(exec::Arguments),
    /// Check whether this host can run microVMs, and say what to do if not.
    Doctor(doctor::Arguments),
    /// List the tools of the image.
    Tools(tools::Arguments),
    /// Serve a relay until told to stop.
    Run(run::Arguments),
    /// Ask the running agent how it is; exit code 1 when it takes no commands.
    Status(status::Arguments),
    /// Say what was found in a machine when the agent is degraded, what it means and what to do.
    Explain(explain::Arguments),
    /// Leave degraded mode: the reason goes into the audit log, and commands are served again.
    Clear(clear::Arguments),
    /// Measure this host.
    Bench(bench::Arguments),
    /// Names the program that attacks the sandbox: `bsm-redteam`.
    #[command(hide = true, disable_help_flag = true)]
    Redteam(redteam::Arguments),
    /// Look at snapshots of microVMs.
    Snapshot(snapshot::Arguments),
    /// Print the canonical bytes of the JSON on standard input: what is hashed and signed.
    Canonicalize,
    /// Look at signed commands.
    Envelope(envelope::Arguments),
    /// Make this host an endpoint of a relay, with a one-time token.
    Enroll(enroll::Arguments),
    /// Boot, capture, restore, and measure what every later start is compared with. Exit codes: 1 boot,
    /// 2 snapshot, 3 usage or environment, 4 baselines.
    Install(install::Arguments),
    /// Look at what `install` measured.
    Baselines(baselines::Arguments),
    /// Look at the log of what was asked of this endpoint and what came of it.
    Audit(audit::Arguments),
    /// Look at what commands gave, and hand it to others so that they can check it.
    Evidence(evidence::Arguments),
    /// Hold the endpoint's private key for the agent, which starts this itself.
    #[command(name = crate::keyholder::SUBCOMMAND, hide = true)]
    KeyHolder,
}

impl Cli {
    /// Understands the process's arguments, or ends the process with what is wrong with them.
    pub fn from_arguments() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            // `install` has an exit code of its own for this; asking for help is no mistake.
            let installs = std::env::args_os().any(|word| word == "install");
            if installs && error.use_stderr() {
                // There is no one to tell when this fails.
                let _ = error.print();
                std::process::exit(install::USAGE.into());
            }
            error.exit()
        })
    }

    /// Does what the command line says.
    pub fn run(self) -> ExitCode {
        // Before anything that opens files or starts threads.
        if matches!(self.command, Command::KeyHolder) {
            return crate::keyholder::serve();
        }
        if let Command::Redteam(arguments) = &self.command {
            return redteam::run(arguments);
        }
        logging::start(self.verbose, matches!(self.command, Command::Run(_)));
        let mut flags = self.settings.flags();
        if let Command::Run(arguments) = &self.command {
            arguments.overrides(&mut flags);
        }
        let config = match self.settings.load(flags) {
            Ok(config) => config,
            Err(error) if matches!(self.command, Command::Install(_)) => {
                terminal::complain(&error, Exit::Usage);
                return install::USAGE.into();
            }
            Err(error) => return terminal::complain(&error, Exit::Usage),
        };
        match self.command {
            Command::Exec(arguments) => exec::run(arguments, config),
            Command::Doctor(arguments) => doctor::run(&arguments, &config),
            Command::Tools(arguments) => tools::run(&arguments, &config),
            Command::Run(_) => run::run(config),
            Command::Status(arguments) => status::run(&arguments, &config),
            Command::Explain(arguments) => explain::run(&arguments, &config),
            Command::Clear(arguments) => clear::run(&arguments, &config),
            Command::Bench(arguments) => bench::run(&arguments, &config),
            Command::Redteam(arguments) => redteam::run(&arguments),
            Command::Snapshot(arguments) => snapshot::run(&arguments, &config),
            Command::Canonicalize => canonicalize::run(),
            Command::Envelope(arguments) => envelope::run(&arguments),
            Command::Install(arguments) => install::run(&arguments, &config),
            Command::Baselines(arguments) => baselines::run(&arguments, &config),
            Command::Evidence(arguments) => evidence::run(&arguments, &config),
            Command::Audit(arguments) => audit::run(&arguments, &config),
            Command::Enroll(arguments) => enroll::run(arguments, &config),
            Command::KeyHolder => crate::keyholder::serve(),
        }
    }
}

#[cfg(test)]
mod tests;
