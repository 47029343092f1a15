//! The example `endpoint` of the agent: an executor of one's own behind a relay, without machines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::PathBuf;

use dev_relay::{Config, DevRelay, DispatchOptions};
use integration_tests::{LIMIT, ServedAgent};
use serde_json::json;

/// Cargo builds examples beside the test programs.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build --examples", path.display());
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_of_ones_own_serves_a_relay() {
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let agent = ServedAgent::serving(&relay, example("endpoint").to_str().unwrap()).await;
    let options = DispatchOptions::default();
    let dispatch =
        |tool: &str| relay.dispatch(agent.id(), tool, &json!({"message": "hi"}), &options);
    let outcome = dispatch("shout").unwrap().outcome(LIMIT).await.unwrap();
    assert!(outcome.is_completed(), "{}", agent.log());
    assert_eq!(outcome.frame()["payload"]["stdout"], "HI\n");
    let refused = dispatch("whisper").unwrap().outcome(LIMIT).await.unwrap();
    assert!(!refused.is_completed(), "an unknown tool is refused");
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
}
