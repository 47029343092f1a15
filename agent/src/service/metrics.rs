//! Numbers about the agent's work, in Prometheus's text format.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use crate::bench::Distribution;
use crate::commands::milestone::{Phases, Trace};
use protocol::code::ErrorCode;

/// Commands whose times are kept for the status.
const RECENT: usize = 1024;

/// Counts what commands do.
pub struct Metrics {
    registry: Registry,
    commands: Family<OutcomeLabel, Counter>,
    refusals: Family<CodeLabel, Counter>,
    phases: Family<PhaseLabel, Histogram>,
    gauges: Gauges,
    recent: Mutex<VecDeque<Phases>>,
}

/// Values that are read at the moment of a scrape.
#[derive(Default)]
pub(super) struct Gauges {
    pub in_flight: Gauge,
    pub connected: Gauge,
    pub healthy: Gauge,
    pub nonces: Gauge,
    pub machines: Family<StateLabel, Gauge>,
    pub queued: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StateLabel {
    pub state: &'static str,
}

/// Times of the latest commands, in microseconds: from the envelope's last byte to the result's, and
/// the parts of that, in order.
#[derive(Debug, Clone, Serialize)]
pub struct Recent {
    /// How many, 1024 at most.
    pub commands: usize,
    /// All of it.
    pub total: Distribution,
    /// Checking the envelope.
    pub verify: Distribution,
    /// Making nonce and journal entry durable.
    pub store: Distribution,
    /// Policy, and writing the acknowledgement.
    pub ack: Distribution,
    /// Waiting for a machine.
    pub wait: Distribution,
    /// The tool.
    pub execute: Distribution,
    /// Reset and verification.
    pub reset: Distribution,
    /// Making the result durable and writing it.
    pub send: Distribution,
}

/// From 50 microseconds to a bit more than ten minutes.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 24))
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        let commands = Family::default();
        let refusals = Family::default();
        let phases = Family::new_with_constructor(buckets as fn() -> Histogram);
        let gauges = Gauges::default();
        let mut registry = Registry::with_prefix("brainstorm_agent");
        registry.register(
            "commands",
            "Commands that ran, by what became of them",
            commands.clone(),
        );
        registry.register("refusals", "Commands that did not run, by code", refusals.clone());
        registry.register_with_unit(
            "phase_duration",
            "Parts of a command's time, from envelope to result",
            Unit::Seconds,
            phases.clone(),
        );
        registry.register("in_flight", "Commands in flight", gauges.in_flight.clone());
        registry.register("connected", "1 while there is a session", gauges.connected.clone());
        registry.register("healthy", "1 while commands are taken", gauges.healthy.clone());
        registry.register("live_nonces", "Nonces that are remembered", gauges.nonces.clone());
        registry.register("machines", "Machines of the pool, by state", gauges.machines.clone());
        registry.register("queued", "Commands that wait for a machine", gauges.queued.clone());
        Self { registry, commands, refusals, phases, gauges, recent: Mutex::default() }
    }

    /// A command has its result.
    pub fn finished(&self, trace: &Trace) {
        let outcome = if trace.completed { "completed" } else { "failed" };
        self.commands.get_or_create(&OutcomeLabel { outcome }).inc();
        let Some(phases) = trace.phases() else { return };
        let parts = [
            ("verify", phases.verify),
            ("store", phases.store),
            ("ack", phases.ack),
            ("wait", phases.wait),
            ("execute", phases.execute),
            ("reset", phases.reset),
            ("send", phases.send),
            ("total", phases.total),
        ];
        for (phase, time) in parts {
            self.phases.get_or_create(&PhaseLabel { phase }).observe(time.as_secs_f64());
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(phases);
    }

    /// A command was refused.
    pub fn refused(&self, code: ErrorCode) {
        self.refusals.get_or_create(&CodeLabel { code: code.as_str() }).inc();
    }

    /// How many commands completed, and how many failed.
    pub fn counts(&self) -> (u64, u64) {
        let count = |outcome| self.commands.get_or_create(&OutcomeLabel { outcome }).get();
        (count("completed"), count("failed"))
    }

    pub(super) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// Times of the latest commands; all zero when there was none.
    pub fn recent(&self) -> Recent {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let of = |part: fn(&Phases) -> Duration| Distribution::of(recent.iter().map(part));
        Recent {
            commands: recent.len(),
            total: of(|phases| phases.total),
            verify: of(|phases| phases.verify),
            store: of(|phases| phases.store),
            ack: of(|phases| phases.ack),
            wait: of(|phases| phases.wait),
            execute: of(|phases| phases.execute),
            reset: of(|phases| phases.reset),
            send: of(|phases| phases.send),
        }
    }

    /// The text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
