//! Commands from a relay to an agent and back, with everything real but the machines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use dev_relay::DispatchOptions;

use integration_tests::ordered::{assert_clean, relay, run};
use integration_tests::{LIMIT, ServedAgent};
use rustix::process::Signal;
use serde_json::json;

const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_acknowledged_run_and_answered() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let outcome = run(&relay, &agent, "echo", json!({"message": "hello"})).await;
    let frame = outcome.frame();
    let chains = &frame["payload"]["chains"];
    let payload =
        json!({"exit_code": 0, "stdout": "hello\n", "stderr": "", "chains": chains.clone()});
    assert_eq!(frame["payload"], payload);
    assert_eq!(frame["sandbox_reset_state"]["verification_passed"], true);
    assert_eq!(frame["resumed"], false);
    assert!(frame["error"].is_null());

    let failed = run(&relay, &agent, "fail", json!({"message": "why"})).await;
    assert_eq!(failed.code(), Some("SANDBOX_TOOL_ERROR"));
    let message = failed.frame()["error"]["message"].as_str().unwrap();
    assert!(message.contains("exited with 1") && message.contains("why"), "{message}");
    assert_eq!(agent.runs().len(), 2);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_is_what_runs() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    // Signed over composed characters, sent decomposed: both have the same signature.
    let outcome = run(&relay, &agent, "echo", json!({"message": "cafe\u{301} 1e3"})).await;
    assert_eq!(outcome.frame()["payload"]["stdout"], "caf\u{e9} 1e3\n");
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_are_in_flight_at_once() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let options = DispatchOptions::default();
    let mut commands: Vec<_> = (0..200)
        .map(|n| {
            let params = json!({"message": format!("number {n}"), "ms": 200});
            relay.dispatch(agent.id(), "echo", &params, &options).unwrap()
        })
        .collect();
    for (n, command) in commands.iter_mut().enumerate() {
        let outcome = command.outcome(LIMIT).await.unwrap();
        assert_eq!(outcome.frame()["payload"]["stdout"], format!("number {n}\n"), "{outcome:?}");
    }
    assert_eq!(agent.runs().len(), 200);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_finishes_what_is_in_flight() {
    let relay = relay().await;
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    let options = DispatchOptions::default();
    let params = json!({"message": "last words", "ms": 1000});
    let mut command = relay.dispatch(agent.id(), "echo", &params, &options).unwrap();
    command.acked(LIMIT).await.unwrap();
    agent.has_run(1);
    agent.signal(Signal::TERM);
    // What arrives before the agent has seen the signal still runs.
    let late = loop {
        let late = run(&relay, &agent, "echo", json!({"message": "x"})).await;
        if !late.is_completed() {
            break late;
        }
    };
    assert_eq!(late.code(), Some("ENDPOINT_SANDBOX_NOT_READY"));
    assert!(command.outcome(LIMIT).await.unwrap().is_completed());
    assert!(agent.ended().success(), "{}", agent.log());
    assert_clean(&relay);
}
