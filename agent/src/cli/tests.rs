use clap::CommandFactory;

use super::*;
use sandbox::{SandboxError, StoppedBy};

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    for word in ["exec echo -p message=hello", "Exit codes", "BSM_IMAGE_DIR", "137"] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
}

#[test]
fn settings_may_follow_the_subcommand() {
    let line = ["brainstorm-agent", "exec", "sh", "-p", "script=true", "--enable-tool", "sh"];
    assert!(Cli::try_parse_from(line).is_ok());
    let line = ["brainstorm-agent", "--memory-mib", "64", "doctor", "--json"];
    assert!(Cli::try_parse_from(line).is_ok());
    let both = ["brainstorm-agent", "exec", "echo", "-p", "a=b", "--params", "{}"];
    assert!(Cli::try_parse_from(both).is_err());
}

#[test]
fn exit_codes_are_the_documented_ones() {
    let timeout = SandboxError::ToolTimeout {
        deadline_ms: 5,
        stopped_by: StoppedBy::Guest,
        partial: Box::default(),
    };
    assert_eq!(Exit::of_call(&timeout).code(), 137);
    let closed = SandboxError::NotAvailable { reason: "x".into() };
    assert_eq!(Exit::of_call(&closed).code(), 125);
    assert_eq!(Exit::BootFailed.code(), 126);
    assert_eq!(Exit::Refused.code(), 1);
    assert_eq!(Exit::Usage.code(), 2);
    assert_eq!(Exit::Unfit.code(), 64);
}

#[test]
fn redteam_takes_any_arguments_and_names_its_successor() {
    for line in [
        &["brainstorm-agent", "redteam"][..],
        &["brainstorm-agent", "redteam", "--help"],
        &["brainstorm-agent", "redteam", "--probes", "all", "--json"],
    ] {
        let cli = Cli::try_parse_from(line).unwrap();
        assert_eq!(format!("{:?}", cli.run()), format!("{:?}", ExitCode::from(2)));
    }
}
