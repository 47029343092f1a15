//! An endpoint with an executor of its own: everything of the agent but machines, so it needs no KVM.
//! Commands are verified, journalled, acknowledged and answered as ever; what runs is up to the
//! executor. Nothing resets or isolates here: it is a start for a backend, not for use.
//!
//! ```text
//! cargo run -p dev-relay                                       # prints the lines to enroll and dispatch
//! brainstorm-agent --state-dir DIR enroll ...                  # as it says
//! cargo run -p brainstorm-agent --example endpoint -- config.toml   # state_dir and relay
//! ```

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use brainstorm_agent::commands::executor::{Executor, MayBegin, ToolFacts};
use brainstorm_agent::config::{Config, Overrides};
use brainstorm_agent::keyholder;
use brainstorm_agent::service::Prerequisites;
use guest::registry::{CallError, Track};
use protocol::message::WireState;
use sandbox::{Executed, ToolCall, ToolOutcome, Verification};
use serde_json::{Map, Value};

/// Knows one tool, `shout`, and runs it in this process.
struct Shout;

impl Executor for Shout {
    fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<ToolFacts, CallError> {
        match (tool, params.get("message").and_then(Value::as_str)) {
            ("shout", Some(_)) => Ok(ToolFacts {
                track: Track::DataProvider,
                deadline_ms: 1_000,
                estimated_duration_ms: 1,
            }),
            ("shout", None) => Err(CallError::InvalidParams {
                tool: tool.to_owned(),
                reason: "message is missing".to_owned(),
            }),
            _ => Err(CallError::Unknown(tool.to_owned())),
        }
    }

    fn capacity(&self) -> usize {
        16
    }

    fn execute(&self, _: &str, call: ToolCall, may_begin: MayBegin) -> Executed {
        if let Err(refused) = may_begin() {
            return Executed::refused(refused);
        }
        let begun = Instant::now();
        let message = call.params.get("message").and_then(Value::as_str).unwrap_or_default();
        let stdout = format!("{}\n", message.to_uppercase()).into_bytes();
        let outcome = ToolOutcome {
            round_trip: begun.elapsed(),
            ..ToolOutcome::of_stdout(&call.command_id, 0, stdout)
        };
        Executed {
            result: Ok(outcome),
            reset: Some(Ok(nothing_to_reset())),
            execute: begun.elapsed(),
            reset_took: Duration::ZERO,
        }
    }

    fn state(&self) -> WireState {
        WireState::Ready
    }

    fn abort(&self) {}

    fn shut_down(&self) {}
}

/// The relay takes a result only with a verification. This one says what a machine would say that
/// nothing has changed.
fn nothing_to_reset() -> Verification {
    let hash = format!("sha256:{}", "00".repeat(32));
    Verification::agreeing(SystemTime::now(), hash.clone(), hash, 0)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let first = std::env::args().nth(1).ok_or("usage: endpoint CONFIG")?;
    if first == keyholder::SUBCOMMAND {
        // The agent starts its own program once more, as the process that holds the private key.
        return Ok(keyholder::serve());
    }
    let config = Config::load(Overrides::default(), Some(Path::new(&first)))?;
    Prerequisites::acquire(config.run)?.serve(Arc::new(Shout), None)?;
    Ok(ExitCode::SUCCESS)
}
