//! What it costs an agent to accept commands: from the moment a relay sends an envelope until it has
//! the acknowledgement, over a loopback WebSocket, with verification, nonce and journal durable
//! on a real disk in between. Everything is real but the machines.
//!
//! `accept_speed AGENT_UNDER_TEST [SINGLES] [BURSTS]`. The singles come one after the other. A
//! burst is 256 envelopes at once, signed before the clock starts, whose tools do nothing until
//! all of them are acknowledged; the relay shares the machine's processors with the agent.
#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing to say")]
#![allow(clippy::cast_precision_loss, reason = "the numbers are small")]

use std::time::{Duration, Instant};

use dev_relay::{Config, DevRelay};
use integration_tests::ServedAgent;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
const IN_FLIGHT: usize = 256;
/// Longer than it takes to acknowledge a burst.
const IDLE_MS: u64 = 400;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let program = arguments.first().map(String::as_str).unwrap_or_default();
    assert!(!program.is_empty(), "say where the agent-under-test is");
    let number = |index: usize, otherwise: usize| {
        arguments.get(index).map_or(otherwise, |text| text.parse().unwrap())
    };
    let (singles, bursts) = (number(1, 1000), number(2, 20));
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let agent = ServedAgent::serving(&relay, program).await;

    let mut times = Vec::with_capacity(singles);
    for _ in 0..singles {
        let envelope = relay.make_envelope(agent.id(), "echo", &json!({"message": "x"})).unwrap();
        let envelope = envelope.sign().unwrap();
        let mut command = relay.dispatch_envelope(agent.id(), &envelope).unwrap();
        assert!(command.outcome(LIMIT).await.unwrap().is_completed());
        times.push(command.timings().to_ack().unwrap());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "one envelope to its acknowledgement: p50 {:.2} ms, p90 {:.2}, p99 {:.2}, max {:.2} \
         ({singles} commands)",
        at(50),
        at(90),
        at(99),
        at(100)
    );

    let mut rates = Vec::with_capacity(bursts);
    for _ in 0..bursts {
        let params = json!({"ms": IDLE_MS});
        let envelopes: Vec<_> = (0..IN_FLIGHT)
            .map(|_| relay.make_envelope(agent.id(), "sleep", &params).unwrap().sign().unwrap())
            .collect();
        let begun = Instant::now();
        let mut commands: Vec<_> = envelopes
            .iter()
            .map(|envelope| relay.dispatch_envelope(agent.id(), envelope).unwrap())
            .collect();
        for command in &mut commands {
            command.acked(LIMIT).await.unwrap();
        }
        rates.push(IN_FLIGHT as f64 / begun.elapsed().as_secs_f64());
        for command in &mut commands {
            assert!(command.outcome(LIMIT).await.unwrap().is_completed());
        }
    }
    rates.sort_by(f64::total_cmp);
    if let (Some(least), Some(most)) = (rates.first(), rates.last()) {
        println!(
            "{IN_FLIGHT} at once: {:.0} acknowledged a second (median of {bursts} bursts; {least:.0} \
             to {most:.0})",
            rates[rates.len() / 2]
        );
    }
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
}
