//! Processes that are the agent with something in it replaced.

use std::path::Path;

use brainstorm_agent::config::{Config, Overrides};
use brainstorm_agent::service::Prerequisites;

/// What a process does first: it becomes the one that holds the key when it was started as that; else
/// it logs, and its first argument is the configuration. Gives that, and the other arguments.
pub fn begin() -> (Config, Vec<String>) {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().expect("the first argument is a configuration");
    if first == brainstorm_agent::keyholder::SUBCOMMAND {
        // Nothing of this process lives on beside it.
        let ended = brainstorm_agent::keyholder::serve();
        std::process::exit(i32::from(ended != std::process::ExitCode::SUCCESS));
    }
    tracing_subscriber::fmt()
        .with_env_filter("info")
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    let config = Config::load(Overrides::default(), Some(Path::new(&first))).unwrap();
    (config, arguments.collect())
}

/// The locked state directory and the process with the key. Ends this process as `run` does when that
/// cannot be.
pub fn acquire_prerequisites(config: Config) -> Prerequisites {
    Prerequisites::acquire(config.run).unwrap_or_else(|error| give_up(&error))
}

/// Ends this process as `run` does.
pub fn give_up(error: &dyn std::fmt::Display) -> ! {
    eprintln!("error: {error}");
    std::process::exit(125);
}
