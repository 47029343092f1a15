//! Commands that a test orders from an agent through a relay.

use dev_relay::{Config, DevRelay, DispatchOptions, Outcome};
use serde_json::{Value, json};

use crate::{LIMIT, ServedAgent};

/// A relay with the usual settings.
pub async fn relay() -> DevRelay {
    DevRelay::start(Config::default()).await.unwrap()
}

/// Runs a command to its end.
pub async fn run(relay: &DevRelay, agent: &ServedAgent, tool: &str, params: Value) -> Outcome {
    let options = DispatchOptions::default();
    let mut command = relay.dispatch(agent.id(), tool, &params, &options).unwrap();
    command.outcome(LIMIT).await.unwrap_or_else(|error| panic!("{error}\n{}", agent.log()))
}

/// Runs a command that has to complete.
pub async fn echo(relay: &DevRelay, agent: &ServedAgent) {
    let outcome = run(relay, agent, "echo", json!({"message": "hello"})).await;
    assert!(outcome.is_completed(), "{outcome:?}\n{}", agent.log());
}

/// Nothing the relay saw of its endpoints was against the protocol.
pub fn assert_clean(relay: &DevRelay) {
    let violations = relay.violations();
    let said: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(said.is_empty(), "{said:#?}");
}
