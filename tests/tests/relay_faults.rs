//! What an agent survives: kills, relays and networks that fail, stores that fail, clocks that jump.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use dev_relay::{
    CommandHandle, Config, DevRelay, DispatchOptions, Farewell, Faults, Outcome, Raw, ReceivedFrame,
};
use integration_tests::{LIMIT, ServedAgent, damage};
use rustix::process::Signal;
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");

async fn relay() -> DevRelay {
    let config = Config { ack_timeout: Duration::from_secs(2), ..Config::default() };
    DevRelay::start(config).await.unwrap()
}

fn dispatch(relay: &DevRelay, agent: &ServedAgent, tool: &str, params: &Value) -> CommandHandle {
    let options = DispatchOptions::default();
    relay.dispatch(agent.id(), tool, params, &options).unwrap()
}

async fn echo(relay: &DevRelay, agent: &ServedAgent) {
    agent.session(relay).await;
    let mut command = dispatch(relay, agent, "echo", &json!({"message": "hello"}));
    let outcome = command.outcome(LIMIT).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}\n{}", agent.log()));
    assert!(outcome.is_completed(), "{outcome:?}\n{}", agent.log());
}

fn assert_clean(relay: &DevRelay) {
    let violations = relay.violations();
    let said: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(said.is_empty(), "{said:#?}");
}

/// Waits for the last frame about a command, which is a result or an error.
async fn last_frame(relay: &DevRelay, from: u64, id: &str) -> ReceivedFrame {
    let is_last = |frame: &ReceivedFrame| {
        frame.command_id.as_deref() == Some(id)
            && matches!(frame.kind.as_str(), "CommandResult" | "ErrorEvent")
    };
    relay.wait_for_frame(from, LIMIT, is_last).await.expect("no answer to the command")
}

/// What is true whatever the milestone: the command ran at most once, its envelope is never
/// accepted again, and its nonce neither.
async fn killed_at(milestone: &str) -> (DevRelay, ServedAgent, String, Option<ReceivedFrame>) {
    let relay = relay().await;
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    let old = agent.session(&relay).await.session_id;
    agent.tell("kill_at", Some(milestone));
    let from = relay.next_frame();
    let params = json!({"message": "precious", "ms": 300});
    let command = dispatch(&relay, &agent, "echo", &params);
    let (id, frame) = (command.command_id().to_owned(), command.frame().to_owned());
    let status = agent.ended();
    assert!(!status.success(), "it was to be killed at {milestone}");

    agent.tell("kill_at", None);
    agent.start();
    relay.wait_for_session_after(agent.id(), &old, LIMIT).await.unwrap();
    let answer = match milestone {
        "Verified" | "NonceSpent" => None,
        _ => Some(last_frame(&relay, from, &id).await),
    };
    let envelope: Value = serde_json::from_str(&frame).unwrap();
    let again = relay.make_envelope(agent.id(), "echo", &params).unwrap();
    let again = again.field("nonce", envelope["nonce"].clone()).sign().unwrap();
    let outcome =
        relay.dispatch_envelope(agent.id(), &again).unwrap().outcome(LIMIT).await.unwrap();
    // Nothing is spent before the envelope is verified and its nonce stored.
    let spent = milestone != "Verified";
    assert_eq!(outcome.code() == Some("ENDPOINT_NONCE_REPLAY"), spent, "{outcome:?}");
    let runs = agent.runs().iter().filter(|run| **run == id).count();
    assert!(runs <= 1, "it ran {runs} times");
    echo(&relay, &agent).await;
    (relay, agent, id, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_command_is_journalled_it_never_happened() {
    for milestone in ["Verified", "NonceSpent"] {
        let (relay, agent, id, _) = killed_at(milestone).await;
        assert!(!agent.runs().contains(&id));
        assert_clean(&relay);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_acknowledgement_the_command_is_refused_afterwards() {
    let (relay, agent, id, answer) = killed_at("Accepted").await;
    let answer = answer.unwrap();
    assert_eq!(answer.kind, "ErrorEvent");
    assert_eq!(answer.json()["code"], "SYSTEM_INTERNAL_ERROR");
    assert!(!agent.runs().contains(&id));
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_there_is_a_result_the_command_fails_honestly() {
    for milestone in ["Acked", "Started", "Executed"] {
        let (relay, _, _, answer) = killed_at(milestone).await;
        let answer = answer.unwrap().json();
        if answer["type"] == "CommandResult" {
            assert_eq!(answer["lifecycle_state"], "failed", "{milestone}: {answer}");
            assert_eq!(answer["resumed"], true);
            assert_eq!(answer["error"]["code"], "SYSTEM_INTERNAL_ERROR");
        } else {
            // That it was acknowledged had not reached the journal.
            assert_eq!(answer["code"], "SYSTEM_INTERNAL_ERROR", "{milestone}: {answer}");
        }
        assert_clean(&relay);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_the_result_on_disk_the_result_is_sent() {
    let (relay, agent, id, answer) = killed_at("ResultReady").await;
    let answer = answer.unwrap().json();
    assert_eq!(answer["lifecycle_state"], "completed", "{answer}");
    assert_eq!(answer["payload"]["stdout"], "precious\n");
    assert_eq!(answer["resumed"], true);
    assert_eq!(agent.runs().iter().filter(|run| **run == id).count(), 1);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_sending_the_relay_has_the_result_once() {
    for milestone in ["Sent", "Confirmed"] {
        let (relay, _, id, answer) = killed_at(milestone).await;
        assert_eq!(answer.unwrap().json()["lifecycle_state"], "completed");
        let results = |frame: &ReceivedFrame| {
            frame.kind == "CommandResult" && frame.command_id.as_deref() == Some(&id)
        };
        let all: Vec<Value> =
            relay.frames().iter().filter(|f| results(f)).map(ReceivedFrame::json).collect();
        let first_time = all.iter().filter(|frame| frame["resumed"] == false).count();
        assert!(first_time <= 1 && !all.is_empty(), "{all:?}");
        assert_clean(&relay);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_outlives_the_connection_its_command_came_by() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let old = agent.session(&relay).await.session_id;
    let mut command = dispatch(&relay, &agent, "echo", &json!({"message": "late", "ms": 1000}));
    command.acked(LIMIT).await.unwrap();
    relay.drop_connection(agent.id()).unwrap();
    relay.wait_for_session_after(agent.id(), &old, LIMIT).await.unwrap();
    let outcome = command.outcome(LIMIT).await.unwrap();
    assert!(outcome.is_completed(), "{outcome:?}");
    assert_eq!(outcome.frame()["resumed"], true);
    assert_eq!(agent.runs().len(), 1);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_restarts_finds_its_agent_again() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    for farewell in [Farewell::Goodbye, Farewell::Reset] {
        let old = agent.session(&relay).await.session_id;
        let mut command = dispatch(&relay, &agent, "echo", &json!({"message": "x", "ms": 800}));
        command.acked(LIMIT).await.unwrap();
        relay.restart(farewell, Duration::from_millis(300)).await.unwrap();
        relay.wait_for_session_after(agent.id(), &old, LIMIT).await.unwrap();
        echo(&relay, &agent).await;
    }
    // The relay has forgotten the two commands; their results came all the same.
    let late = relay.late().len();
    assert!(late >= 1, "no result arrived after the restart");
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_reads_nothing_is_given_up_and_found_again() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let old = agent.session(&relay).await.session_id;
    let command = dispatch(&relay, &agent, "echo", &json!({"message": "stuck", "ms": 300}));
    relay.stop_reading(agent.id()).unwrap();
    let id = command.command_id().to_owned();
    let new = relay.wait_for_session_after(agent.id(), &old, LIMIT).await;
    assert!(new.is_some(), "{}", agent.log());
    // It may have been on its way before the relay stopped, and be read late.
    let answer = last_frame(&relay, 0, &id).await.json();
    assert_eq!(answer["lifecycle_state"], "completed", "{answer}");
    assert_eq!(agent.runs(), [id]);
    echo(&relay, &agent).await;
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_answers_no_hello_is_given_up() {
    let relay = relay().await;
    let mut agent = ServedAgent::enrolled(&relay, AGENT);
    relay.set_faults(Faults { mute_upgrades: true, ..Faults::default() });
    agent.start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    relay.set_faults(Faults { upgrade_status: Some(503), ..Faults::default() });
    relay.restart(Farewell::Reset, Duration::from_millis(100)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    relay.set_faults(Faults::default());
    echo(&relay, &agent).await;
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_replaced_is_not_fought_for() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let before = relay.connections();
    relay.replace_session(agent.id()).unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(relay.connections(), before, "it came back at once");
    echo_after_pause(&relay, &agent).await;
    assert!(agent.log().contains("another"), "{}", agent.log());
}

async fn echo_after_pause(relay: &DevRelay, agent: &ServedAgent) {
    assert!(relay.wait_for_endpoint(agent.id(), LIMIT).await.is_some(), "{}", agent.log());
    echo(relay, agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_good_and_bad_envelopes_is_worked_off() {
    // How fast that goes is not what this is about.
    let config = Config { ack_timeout: LIMIT * 6, ..Config::default() };
    let relay = DevRelay::start(config).await.unwrap();
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let params = json!({"message": "x"});
    let (mut good, mut bad) = (Vec::new(), 0);
    for n in 0..10_000 {
        let envelope = relay.make_envelope(agent.id(), "echo", &params).unwrap().sign().unwrap();
        let forged = envelope.clone().field("correlation_id", format!("forged-{n}"));
        loop {
            match relay.dispatch_envelope(agent.id(), &envelope) {
                Ok(command) => break good.push(command),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        // A forgery has the id of a good command: it must not cost that command anything.
        let forged = forged.field("command_id", uuid(n));
        while relay.send_raw(agent.id(), Raw::Text(forged.text())).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bad += 1;
    }
    let (mut completed, mut busy) = (0, 0);
    for command in &mut good {
        match command.outcome(LIMIT * 6).await.unwrap_or_else(|e| panic!("{e}\n{}", tail(&agent))) {
            outcome if outcome.is_completed() => completed += 1,
            Outcome::Refused(frame) if frame["code"] == "ENDPOINT_SANDBOX_NOT_READY" => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((completed + busy, bad), (10_000, 10_000));
    assert!(completed > 0);
    let mut runs = agent.runs();
    assert_eq!(runs.len(), completed);
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), completed, "a command ran twice");
    let wrong = |f: &ReceivedFrame| {
        f.kind == "ErrorEvent" && f.json()["code"] == "ENDPOINT_SIGNATURE_INVALID"
    };
    let refused = relay.frames().iter().filter(|f| wrong(f)).count();
    assert_eq!(refused, 10_000);
    echo(&relay, &agent).await;
    assert!(agent.command(&["audit", "verify"]).status.success());
    assert_clean(&relay);
}

fn uuid(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn tail(agent: &ServedAgent) -> String {
    let log = agent.log();
    log[log.len().saturating_sub(4000)..].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_commands_and_nothing_else() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    echo(&relay, &agent).await;
    agent.limit_files(Some(0));
    let mut command = dispatch(&relay, &agent, "echo", &json!({"message": "x"}));
    let outcome = command.outcome(LIMIT).await.unwrap();
    assert_eq!(outcome.code(), Some("SYSTEM_INTERNAL_ERROR"), "{outcome:?}");
    let id = command.command_id().to_owned();
    agent.limit_files(None);
    echo(&relay, &agent).await;
    assert!(!agent.runs().contains(&id));
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_written_is_named_and_nothing_is_served() {
    let relay = relay().await;
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    echo(&relay, &agent).await;
    agent.kill();
    assert!(relay.wait_for_disconnect(agent.id(), LIMIT).await);
    let output = agent.run_on_a_read_only_disk();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("read-only") || said.contains("Read-only"), "{said}");
    assert!(said.contains(agent.state().to_str().unwrap()), "{said}");
    assert!(relay.session(agent.id()).is_none());
    agent.start();
    agent.session(&relay).await;
    echo(&relay, &agent).await;
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_named_and_left_as_it_is() {
    for store in ["nonces.db", "journal.db", "audit.db", "identity.json", "keys.toml"] {
        let relay = relay().await;
        let mut agent = ServedAgent::serving(&relay, AGENT).await;
        for _ in 0..3 {
            echo(&relay, &agent).await;
        }
        agent.signal(Signal::TERM);
        assert!(agent.ended().success());
        let path = agent.state().join(store);
        if ["identity.json", "keys.toml"].contains(&store) {
            damage(&path);
        } else {
            // The header is what no database can do without.
            std::fs::write(&path, "not a database at all").unwrap();
        }
        let damaged = std::fs::read(&path).unwrap();
        agent.start();
        if store == "keys.toml" {
            // Keys may be mended while the agent runs.
            agent.session(&relay).await;
            let mut command = dispatch(&relay, &agent, "echo", &json!({"message": "x"}));
            let outcome = command.outcome(LIMIT).await.unwrap();
            assert!(outcome.code().is_some(), "{outcome:?}");
        } else {
            assert!(!agent.ended().success(), "it started with a damaged {store}");
            assert!(agent.log().contains(store), "{store} is not named\n{}", agent.log());
        }
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "{store} was written to");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_is_missed() {
    let relay = relay().await;
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    echo(&relay, &agent).await;
    agent.signal(Signal::TERM);
    assert!(agent.ended().success());
    std::fs::remove_file(agent.state().join("nonces.db")).unwrap();
    agent.start();
    assert!(!agent.ended().success());
    assert!(agent.log().contains("nonces.db"), "{}", agent.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_jump_of_the_clock_makes_a_nonce_good_again() {
    const HOUR: i64 = 3_600_000;
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let params = json!({"message": "once"});
    let mut command = dispatch(&relay, &agent, "echo", &params);
    assert!(command.outcome(LIMIT).await.unwrap().is_completed());
    let envelope: Value = serde_json::from_str(command.frame()).unwrap();

    for offset in [-HOUR, 24 * HOUR, 0, 24 * HOUR, -HOUR, 0] {
        agent.tell("clock_offset_ms", Some(&offset.to_string()));
        // The very same envelope again.
        let from = relay.next_frame();
        relay.send_raw(agent.id(), Raw::Text(command.frame().to_owned())).unwrap();
        let answer = relay.wait_for_frame(from, LIMIT, |f| f.kind == "ErrorEvent").await.unwrap();
        let code = answer.json()["code"].as_str().unwrap().to_owned();
        let expected = match offset {
            0 => "ENDPOINT_NONCE_REPLAY",
            o if o < 0 => "ENDPOINT_ENVELOPE_FUTURE_DATED",
            _ => "ENDPOINT_ENVELOPE_EXPIRED",
        };
        assert_eq!(code, expected, "{offset}");
        // Its nonce in an envelope that is dated for the agent's clock.
        let now = relay.now().plus_millis(offset);
        let again = relay.make_envelope(agent.id(), "echo", &params).unwrap();
        let again = again.times(now, now.plus_millis(300_000));
        let again = again.field("nonce", envelope["nonce"].clone()).sign().unwrap();
        let outcome =
            relay.dispatch_envelope(agent.id(), &again).unwrap().outcome(LIMIT).await.unwrap();
        // A day later the envelope could not be accepted any more, so its nonce may be forgotten.
        if outcome.is_completed() {
            assert!(offset == 24 * HOUR, "a nonce was accepted twice at {offset}");
        } else {
            assert_eq!(outcome.code(), Some("ENDPOINT_NONCE_REPLAY"), "{offset}");
        }
    }
    agent.tell("clock_offset_ms", None);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_slept_goes_on() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    echo(&relay, &agent).await;
    agent.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(4)).await;
    agent.signal(Signal::CONT);
    tokio::time::sleep(Duration::from_millis(500)).await;
    echo_after_pause(&relay, &agent).await;
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_never_share_a_state_directory() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let second = std::process::Command::new(AGENT)
        .arg(agent.state().parent().unwrap().join("config.toml"))
        .arg(agent.state().parent().unwrap())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another agent"), "{said}");
    echo(&relay, &agent).await;
}
