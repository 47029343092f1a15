//! Frames that an endpoint must refuse, and unusual ones that it must take.

use ed25519_dalek::SigningKey;
use protocol::signing::Domain;
use protocol::timestamp::Timestamp;
use serde_json::{Value, json};

use crate::dispatch::DispatchError;
use crate::endpoint::inbound::NO_COMMAND;
use crate::envelope::{Envelope, EnvelopeBuilder};
use crate::frame::ReceivedFrame;
use crate::random;
use crate::relay::{DevRelay, Raw};

const SIGNATURE: &str = "ENDPOINT_SIGNATURE_INVALID";
const AUDIENCE: &str = "ENDPOINT_WRONG_AUDIENCE";
const SESSION: &str = "ENDPOINT_SESSION_STALE";
const EXPIRED: &str = "ENDPOINT_ENVELOPE_EXPIRED";
const FUTURE: &str = "ENDPOINT_ENVELOPE_FUTURE_DATED";
const SCHEMA: &str = "ENDPOINT_SCHEMA_INVALID";

/// All fields of an envelope.
const FIELDS: [&str; 16] = [
    "type",
    "command_id",
    "tenant_id",
    "target_endpoint_id",
    "correlation_id",
    "session_id",
    "tool",
    "params",
    "operator",
    "lifecycle_state",
    "issued_at",
    "expires_at",
    "nonce",
    "signing_key_id",
    "signature_algo",
    "signature",
];

/// A frame that must be answered by an `ErrorEvent` and nothing else.
#[derive(Debug, Clone)]
pub struct Hostile {
    /// What is wrong with it.
    pub name: String,
    /// The frame.
    pub raw: Raw,
    /// The code of the answer.
    pub code: &'static str,
    /// The command, where the frame is a JSON object that names one.
    pub command_id: Option<String>,
}

impl Hostile {
    /// Whether `frame` is the answer this one must get.
    pub fn is_answered_by(&self, frame: &ReceivedFrame) -> bool {
        let named = frame.command_id.as_deref().filter(|id| *id != NO_COMMAND);
        frame.kind == "ErrorEvent"
            && named == self.command_id.as_deref()
            && frame.json()["code"] == self.code
    }
}

/// What is collected, and the endpoint it is for.
struct Collector<'a> {
    relay: &'a DevRelay,
    endpoint_id: &'a str,
    frames: Vec<Hostile>,
}

impl DevRelay {
    /// Every kind of frame that the endpoint must refuse, each with a command of its own: bad
    /// signatures, audiences, times and shapes, JSON of no or two readings, and what is no
    /// envelope at all. Send them with [`send_raw`](Self::send_raw). Replays are not among them.
    pub fn hostile_frames(&self, endpoint_id: &str) -> Result<Vec<Hostile>, DispatchError> {
        let mut collector = Collector { relay: self, endpoint_id, frames: Vec::new() };
        collector.signatures()?;
        collector.claims()?;
        collector.shapes()?;
        collector.readings()?;
        collector.no_envelopes()?;
        Ok(collector.frames)
    }

    /// Envelopes of `echo` that are spelled unlike any other and must be taken: their signature
    /// holds. The text says what the tool must be given as `message`.
    pub fn unusual_envelopes(
        &self,
        endpoint_id: &str,
    ) -> Result<Vec<(&'static str, Envelope)>, DispatchError> {
        let make = || self.make_envelope(endpoint_id, "echo", &json!({ "message": "hello" }));
        let now = self.now();
        Ok(vec![
            ("hello", make()?.raw_field("params", "\n{ \"message\" :\t\"hell\\u006f\" }").sign()?),
            // Sent decomposed, signed composed: the tool is given what was signed.
            ("\u{e9}", make()?.raw_field("params", "{\"message\":\"e\u{301}\"}").sign()?),
            ("hello", make()?.times(now.plus_millis(-330_000), now.plus_millis(-30_000)).sign()?),
            ("hello", make()?.times(now.plus_millis(30_000), now.plus_millis(330_000)).sign()?),
            ("hello", make()?.field("expires_at", no_fraction(now.plus_millis(60_000))).sign()?),
        ])
    }
}

/// A time without its fraction of a second, which RFC 3339 allows.
fn no_fraction(time: Timestamp) -> String {
    let time = time.to_string();
    format!("{}Z", time.split('.').next().unwrap_or_default())
}

impl Collector<'_> {
    fn good(&self) -> Result<EnvelopeBuilder, DispatchError> {
        self.relay.make_envelope(self.endpoint_id, "echo", &json!({ "message": "hello" }))
    }

    fn add(&mut self, name: impl Into<String>, envelope: &Envelope, code: &'static str) {
        self.frames.push(Hostile {
            name: name.into(),
            command_id: envelope.command_id().filter(|id| uuid::Uuid::try_parse(id).is_ok()),
            raw: Raw::Text(envelope.text()),
            code,
        });
    }

    fn signatures(&mut self) -> Result<(), DispatchError> {
        let other_key = SigningKey::from_bytes(&random::bytes());
        let good = || self.good();
        let bad = [
            ("changed after signing", good()?.sign()?.field("tool", "sh")),
            (
                "params changed after signing",
                good()?.sign()?.field("params", json!({"message": 1})),
            ),
            ("signature of another key", good()?.key(other_key).sign()?),
            ("signature for another purpose", good()?.domain(Domain::ConnectionProof).sign()?),
            ("signature that is no base64", good()?.sign()?.field("signature", "!!!!")),
            ("signature that is too short", good()?.sign()?.field("signature", "AAAA")),
            ("signature of zeros", good()?.sign()?.field("signature", "A".repeat(86) + "==")),
            ("empty signature", good()?.sign()?.field("signature", "")),
            ("unknown key", good()?.field("signing_key_id", "nobody/key-v1").sign()?),
            ("another algorithm", good()?.field("signature_algo", "ed25519").sign()?),
            ("algorithm none", good()?.field("signature_algo", "none").sign()?),
        ];
        for (name, envelope) in bad {
            self.add(name, &envelope, SIGNATURE);
        }
        Ok(())
    }

    fn claims(&mut self) -> Result<(), DispatchError> {
        let now = self.relay.now();
        let at = |millis| now.plus_millis(millis);
        let good = || self.good();
        let bad = [
            ("another endpoint", good()?.field("target_endpoint_id", random::uuid()), AUDIENCE),
            ("another tenant", good()?.field("tenant_id", "another-tenant"), AUDIENCE),
            ("another session", good()?.field("session_id", random::uuid()), SESSION),
            ("expired", good()?.times(at(-400_000), at(-100_000)), EXPIRED),
            ("too long a life", good()?.times(now, at(300_001)), EXPIRED),
            ("expires before its issue", good()?.times(now, at(-1)), EXPIRED),
            ("future", good()?.times(at(120_000), at(400_000)), FUTURE),
        ];
        for (name, builder, code) in bad {
            self.add(name, &builder.sign()?, code);
        }
        // The signature comes before everything it vouches for.
        let unsigned = self.good()?.field("session_id", random::uuid()).sign()?;
        let unsigned = unsigned.field("target_endpoint_id", random::uuid());
        self.add("changed, and for another endpoint and session", &unsigned, SIGNATURE);
        Ok(())
    }

    fn shapes(&mut self) -> Result<(), DispatchError> {
        for name in FIELDS {
            // A signature that covers all the rest is the best such a frame can have.
            let envelope = match name {
                "signature" => self.good()?.sign()?.without(name),
                _ => self.good()?.without(name).sign()?,
            };
            self.add(format!("without {name}"), &envelope, SCHEMA);
            let envelope = match name {
                "signature" => self.good()?.sign()?.field(name, 7),
                _ => self.good()?.field(name, 7).sign()?,
            };
            self.add(format!("{name} is a number"), &envelope, SCHEMA);
        }
        let human = |more: Value| {
            let mut operator = json!({"kind": "human", "id": "operator@local"});
            if let (Some(operator), Value::Object(more)) = (operator.as_object_mut(), more) {
                operator.extend(more);
            }
            operator
        };
        let wrong: [(&str, &str, Value); 17] = [
            ("an extra field", "deadline_ms", json!(1000)),
            ("another type", "type", json!("CommandEnvelop")),
            ("command_id is no UUID", "command_id", json!("cmd-1")),
            ("target_endpoint_id is no UUID", "target_endpoint_id", json!("endpoint-1")),
            ("session_id is no UUID", "session_id", json!("session-1")),
            ("empty tenant_id", "tenant_id", json!("")),
            ("empty tool", "tool", json!("")),
            ("257 characters of tool", "tool", json!("t".repeat(257))),
            ("empty correlation_id", "correlation_id", json!("")),
            ("params is an array", "params", json!([])),
            ("params is null", "params", json!(null)),
            ("another lifecycle_state", "lifecycle_state", json!("started")),
            ("42 characters of nonce", "nonce", json!("A".repeat(42))),
            ("issued_at is no time", "issued_at", json!("yesterday")),
            ("operator of no kind", "operator", human(json!({"kind": "robot"}))),
            ("agent without a human", "operator", human(json!({"kind": "agent"}))),
            ("an extra field of operator", "operator", human(json!({"auth_proof": {}}))),
        ];
        for (name, field, value) in wrong {
            let envelope = self.good()?.field(field, value).sign()?;
            self.add(name, &envelope, SCHEMA);
        }
        Ok(())
    }

    fn readings(&mut self) -> Result<(), DispatchError> {
        let nested =
            |depth: usize| format!("{{\"message\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let large = format!("{{\"message\":\"{}\"}}", "x".repeat(1 << 20));
        let params = [
            ("keys that collide under NFC", "{\"e\\u0301\":1,\"\u{e9}\":2}".to_owned()),
            ("a key twice in params", r#"{"message":"a","message":"b"}"#.to_owned()),
            ("a number out of range", r#"{"message":1e400}"#.to_owned()),
            ("a lone surrogate", r#"{"message":"\ud800"}"#.to_owned()),
            ("100 levels", nested(100)),
            ("100 000 levels", nested(100_000)),
            ("more than a mebibyte", large),
        ];
        for (name, params) in params {
            let mut envelope = self.good()?.sign()?;
            let command_id = envelope.command_id();
            envelope = envelope.raw_field("params", &params);
            self.add(name, &envelope, SCHEMA);
            if let Some(frame) = self.frames.last_mut() {
                frame.command_id = command_id;
            }
        }
        let twice = self.good()?.sign()?.duplicate("tool", "sh");
        self.add("a key twice", &twice, SCHEMA);
        Ok(())
    }

    fn no_envelopes(&mut self) -> Result<(), DispatchError> {
        let good = self.good()?.sign()?.text();
        let cut = good.get(..good.len() / 2).unwrap_or_default().to_owned();
        let nothing = |name: &str, raw| Hostile {
            name: name.to_owned(),
            raw,
            code: SCHEMA,
            command_id: None,
        };
        let texts = [
            ("junk", "junk".to_owned()),
            ("an empty frame", String::new()),
            ("null", "null".to_owned()),
            ("a number", "7".to_owned()),
            ("an array", "[1]".to_owned()),
            ("an empty object", "{}".to_owned()),
            ("a type that is no text", r#"{"type":7}"#.to_owned()),
            ("an unknown type", r#"{"type":"Gossip"}"#.to_owned()),
            ("half an envelope", cut),
            ("an envelope and more", format!("{good} x")),
        ];
        for (name, text) in texts {
            self.frames.push(nothing(name, Raw::Text(text)));
        }
        let binary = self.good()?.sign()?.text().into_bytes();
        self.frames.push(nothing("a binary envelope", Raw::Binary(binary)));
        self.frames.push(nothing("binary junk", Raw::Binary(vec![0xff, 0, 1])));
        Ok(())
    }
}
