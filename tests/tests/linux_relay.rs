//! A relay, the agent's own program, and Linux guests: nothing here is simulated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use dev_relay::{Config, DevRelay, DispatchOptions, Outcome};
use integration_tests::{LIMIT, ServedAgent};
use serde_json::{Value, json};

async fn relay() -> DevRelay {
    // Everything is emulated in here, the relay included.
    let config = Config { ack_timeout: Duration::from_secs(30), ..Config::default() };
    DevRelay::start(config).await.unwrap()
}

async fn run(relay: &DevRelay, agent: &ServedAgent, tool: &str, params: Value) -> Outcome {
    let options = DispatchOptions::default();
    let mut command = relay.dispatch(agent.id(), tool, &params, &options).unwrap();
    command.outcome(LIMIT * 2).await.unwrap_or_else(|error| panic!("{error}\n{}", agent.log()))
}

fn assert_clean(relay: &DevRelay) {
    let said: Vec<String> = relay.violations().iter().map(ToString::to_string).collect();
    assert!(said.is_empty(), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_commands_run_in_guests_whose_resets_are_verified() {
    let relay = relay().await;
    let mut agent = ServedAgent::with_machines(&relay);
    agent.start();
    agent.session(&relay).await;
    let mut golden = None;
    for n in 0..3 {
        let params = json!({"message": format!("number {n} caf\u{e9}")});
        let outcome = run(&relay, &agent, "echo", params).await;
        assert!(outcome.is_completed(), "{outcome:?}\n{}", agent.log());
        let frame = outcome.frame();
        assert_eq!(frame["payload"]["stdout"], format!("number {n} caf\u{e9}\n"));
        let reset = &frame["sandbox_reset_state"];
        let details = &reset["verification_details"];
        assert_eq!(reset["verification_passed"], true, "{reset}");
        assert_eq!(details["fs_hash"], details["fs_hash_baseline"]);
        assert_eq!(details["open_fd_count"], details["open_fd_count_baseline"]);
        assert!(details["open_fd_count"].as_i64().unwrap() > 0);
        assert_eq!(details["vmm_api_state"], "running");
        // The golden state is one and the same every time.
        let hash = reset["golden_hash"].as_str().unwrap().to_owned();
        assert_eq!(*golden.get_or_insert(hash.clone()), hash);
    }
    let failed = run(&relay, &agent, "cat", json!({"path": "/nonexistent"})).await;
    assert_eq!(failed.code(), Some("SANDBOX_TOOL_ERROR"), "{failed:?}");
    assert_eq!(failed.frame()["sandbox_reset_state"]["verification_passed"], true);
    let unknown = run(&relay, &agent, "rm", json!({})).await;
    assert_eq!(unknown.code(), Some("ENDPOINT_TOOL_NOT_REGISTERED"));
    let status = agent.command(&["status", "--json"]).stdout;
    let status: Value = serde_json::from_slice(&status).unwrap();
    let confinement = &status["confinement"];
    assert_eq!(confinement["capabilities"], 0, "{status}");
    assert_eq!(confinement["system_calls"], true, "{status}");
    for threads in ["vcpu_threads", "store_threads", "machine_threads"] {
        assert_eq!(confinement[threads], true, "{status}");
    }
    let bad = run(&relay, &agent, "echo", json!({"massage": "x"})).await;
    assert_eq!(bad.code(), Some("ENDPOINT_SCHEMA_INVALID"));
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_with_a_guest_running_answers_for_the_command_when_it_is_back() {
    let relay = relay().await;
    let mut agent = ServedAgent::with_machines(&relay);
    agent.start();
    let old = agent.session(&relay).await.session_id;
    let options = DispatchOptions::default();
    let params = json!({"message": "unheard"});
    let mut command = relay.dispatch(agent.id(), "echo", &params, &options).unwrap();
    command.acked(LIMIT).await.unwrap();
    agent.kill();
    agent.start();
    relay.wait_for_session_after(agent.id(), &old, LIMIT).await.unwrap();
    // It failed honestly, or the result had been journalled before the kill.
    let outcome = command.outcome(LIMIT).await.unwrap();
    match outcome.code() {
        None => assert!(outcome.is_completed()),
        code => assert_eq!(code, Some("SYSTEM_INTERNAL_ERROR"), "{outcome:?}"),
    }
    let outcome = run(&relay, &agent, "echo", json!({"message": "hello again"})).await;
    assert!(outcome.is_completed(), "{outcome:?}\n{}", agent.log());
    assert_clean(&relay);
}
