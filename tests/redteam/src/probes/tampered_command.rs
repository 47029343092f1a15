//! What runs is what an operator saw and signed.

use serde_json::{Map, Value, json};

use super::signer::{self, ENDPOINT, Envelope, OTHER, SESSION, TENANT, failed};
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict};
use protocol::code::ErrorCode;
use protocol::{Audience, KeyRing, Timestamp, verify};
use sandbox::Sandbox;

/// An attacker changes a signed command on its way.
pub const PROBE: FnProbe = FnProbe {
    name: "signed-is-run",
    class: AttackerClass::A7,
    expectation: Expectation::ShouldFail,
    description: "Between its signature and its tool every part of a command is changed, doubled \
                  or written in another form; it is refused, or the machine does to the byte what \
                  was signed",
    repeats: false,
    run,
};

/// What an operator was shown: one letter of it can be written in two ways.
const SHOWN: &str = "caf\u{e9} for two";
const OTHER_FORM: &str = "cafe\u{301} for two";

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.sandbox(Guest::Shipped)?;
    let endpoint = AttackedEndpoint {
        keys: signer::keys()?,
        careless: testbed.plan().leaves_out("signatures"),
    };
    let now = Timestamp::now();
    let good = Envelope::of(now, "echo", json!({"message": SHOWN})).signed()?;
    let said = |order: Order| ran(testbed, &*sandbox, order);
    match endpoint.take(&good, &good, now).map(said) {
        Ok(Ok(text)) if text == SHOWN => {}
        other => return Err(ProbeError::Control(format!("as it was signed: {other:?}"))),
    }

    let (mut breaches, mut seen) = (Vec::new(), Vec::new());
    for (change, text) in changed(&good, now)? {
        let came_to = match endpoint.take(&good, &text, now) {
            Err(code) => code.to_string(),
            Ok(order) => {
                breaches.push(format!("{change}: taken, as {}", order.0));
                "taken".to_owned()
            }
        };
        seen.push(json!({"change": change, "came_to": came_to}));
    }
    for (change, text) in equal(&good)? {
        let order = endpoint.take(&good, &text, now);
        let came_to = match order.map(said) {
            // A refusal would be as good.
            Err(code) => code.to_string(),
            Ok(Ok(text)) if text == SHOWN => "ran as it was signed".to_owned(),
            Ok(other) => {
                breaches.push(format!("{change}: ran as {other:?}"));
                format!("{other:?}")
            }
        };
        seen.push(json!({"change": change, "came_to": came_to}));
    }
    let held = format!("{} changes of a signed command, none ran", seen.len());
    Ok(Verdict::of(&breaches, held, json!({ "changes": seen })))
}

/// A tool and its parameters.
struct Order(String, Map<String, Value>);

struct AttackedEndpoint {
    keys: KeyRing,
    /// The endpoint checks one text and reads another.
    careless: bool,
}

impl AttackedEndpoint {
    /// What `text` orders, where the signature of `signed` vouches for it.
    fn take(&self, signed: &str, text: &str, now: Timestamp) -> Result<Order, ErrorCode> {
        let audience = Audience { endpoint_id: ENDPOINT, tenant_id: TENANT, session_id: SESSION };
        let checked = if self.careless { signed } else { text };
        let envelope = verify(checked, &self.keys, &audience, now).map_err(|found| found.code)?;
        if !self.careless {
            return Ok(Order(envelope.tool, envelope.params));
        }
        let read: Value = serde_json::from_str(text).map_err(|_| ErrorCode::SchemaInvalid)?;
        let tool = read.get("tool").and_then(Value::as_str).unwrap_or_default().to_owned();
        let params = read.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Order(tool, params))
    }
}

/// Output of an order, without the end of the line.
fn ran(testbed: &Testbed, sandbox: &dyn Sandbox, order: Order) -> Result<String, String> {
    let Order(tool, params) = order;
    let outcome = testbed.run(sandbox, &tool, params.into(), testbed.plan().deadline());
    let outcome = outcome.map_err(|error| error.to_string())?;
    let text = String::from_utf8(outcome.stdout).map_err(|error| error.to_string())?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Other commands under the signature of `good`.
fn changed(good: &str, now: Timestamp) -> Result<Vec<(String, String)>, ProbeError> {
    let whole: Value = serde_json::from_str(good).map_err(failed)?;
    let mut changes = Vec::new();
    for (field, value) in [
        ("tool", json!("attack_mark")),
        ("params", json!({"message": "another"})),
        ("params", json!({})),
        ("params", json!({"message": SHOWN, "more": true})),
        ("params", json!({"message": SHOWN, "__proto__": {"message": "another"}})),
        ("operator", json!({"kind": "human", "id": "another", "originating_human_id": "redteam"})),
        ("command_id", json!(OTHER)),
        ("correlation_id", json!("another")),
        ("nonce", json!("A".repeat(43))),
        ("issued_at", json!(now.plus_millis(-1))),
        ("expires_at", json!(now.plus_millis(299_000))),
        ("added", json!(1)),
    ] {
        let mut other = whole.clone();
        if let Some(fields) = other.as_object_mut() {
            fields.insert(field.to_owned(), value.clone());
        }
        changes.push((format!("{field} as {value}"), other.to_string()));
    }
    // Two readers of a doubled name may each see the one they like.
    let tool = r#""tool":"echo""#;
    let other = r#""tool":"attack_mark""#;
    let message = format!("{}:{}", json!("message"), json!(SHOWN));
    for (name, from, to) in [
        ("tool twice, the other last", tool, format!("{tool},{other}")),
        ("tool twice, the other first", tool, format!("{other},{tool}")),
        ("message twice", message.as_str(), format!("{message},\"message\":\"another\"")),
        ("tool under an escaped name", tool, format!(r#"{tool},"t\u006fol":"attack_mark""#)),
        ("something behind it", "", String::new()),
    ] {
        let text =
            if from.is_empty() { format!("{good} {good}") } else { good.replacen(from, &to, 1) };
        if text == good {
            return Err(ProbeError::Control(format!("{name}: there is nothing to change")));
        }
        changes.push((name.to_owned(), text));
    }
    Ok(changes)
}

/// The command of `good` in other bytes.
fn equal(good: &str) -> Result<Vec<(&'static str, String)>, ProbeError> {
    let whole: Map<String, Value> = serde_json::from_str(good).map_err(failed)?;
    let members = whole.iter().rev().map(|(name, value)| format!("{}: {value}", json!(name)));
    let reversed = format!("{{ {} }}", members.collect::<Vec<_>>().join(" , "));
    let other_form = good.replace(SHOWN, OTHER_FORM);
    let escaped = good.replace('\u{e9}', "\\u00e9");
    if other_form == good || escaped == good {
        return Err(ProbeError::Control("the command is not as it is thought to be".into()));
    }
    Ok(vec![
        ("members in another order", reversed),
        ("another Unicode form", other_form),
        ("escapes", escaped),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(careless: bool) -> (usize, usize) {
        let endpoint = AttackedEndpoint { keys: signer::keys().unwrap(), careless };
        let now = Timestamp::now();
        let good = Envelope::of(now, "echo", json!({"message": SHOWN})).signed().unwrap();
        let count = |texts: Vec<String>| {
            texts.iter().filter(|text| endpoint.take(&good, text, now).is_ok()).count()
        };
        let changed = changed(&good, now).unwrap();
        let equal = equal(&good).unwrap();
        assert!(changed.len() > 15 && equal.len() == 3);
        let equal = equal.into_iter().map(|(_, text)| text);
        (count(changed.into_iter().map(|(_, text)| text).collect()), count(equal.collect()))
    }

    #[test]
    fn no_change_is_taken_and_every_other_form_is() {
        assert_eq!(taken(false), (0, 3));
    }

    #[test]
    fn an_endpoint_that_checks_one_text_and_reads_another_takes_changes() {
        assert!(taken(true).0 > 10);
    }

    #[test]
    fn another_form_orders_what_was_signed() {
        let endpoint = AttackedEndpoint { keys: signer::keys().unwrap(), careless: false };
        let now = Timestamp::now();
        let good = Envelope::of(now, "echo", json!({"message": SHOWN})).signed().unwrap();
        for (form, text) in equal(&good).unwrap() {
            let Order(_, params) = endpoint.take(&good, &text, now).unwrap();
            assert_eq!(params.get("message"), Some(&json!(SHOWN)), "{form}");
        }
    }
}
