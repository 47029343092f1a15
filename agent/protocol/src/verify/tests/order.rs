//! With two things wrong, the earlier check is the one that speaks.

use serde_json::json;

use super::sample::{NOW, OTHER_UUID, Sample, refused};
use super::*;

/// Makes one check fail. Everything signed is signed again after all of them, except by the break
/// of the signature itself.
fn break_check(check: Check, sample: Sample) -> Sample {
    match check {
        Check::Schema => sample.with("extra", json!(1)),
        Check::Algorithm => sample.with("signature_algo", "none".into()),
        Check::Key => sample.with("signing_key_id", "unknown".into()),
        Check::Signature => sample.with("signature", "A".repeat(86).into()),
        Check::Endpoint => sample.with("target_endpoint_id", OTHER_UUID.into()),
        Check::Tenant => sample.with("tenant_id", OTHER_UUID.into()),
        Check::Session => sample.with("session_id", OTHER_UUID.into()),
        Check::Times => sample.with("expires_at", json!(NOW.plus_millis(-1))),
        Check::Size | Check::Json | Check::Nonce => sample,
    }
}

/// Breaks of the text itself, after signing.
fn break_text(check: Check, text: String) -> String {
    match check {
        Check::Size => format!("{text}{}", " ".repeat(MAX_ENVELOPE_BYTES)),
        Check::Json => text.replacen('{', "{\"twice\":1,\"twice\":1,", 1),
        _ => text,
    }
}

const ORDER: [Check; 10] = [
    Check::Size,
    Check::Json,
    Check::Schema,
    Check::Algorithm,
    Check::Key,
    Check::Signature,
    Check::Endpoint,
    Check::Tenant,
    Check::Session,
    Check::Times,
];

fn broken(checks: &[Check]) -> String {
    let sample = checks.iter().fold(Sample::new(), |sample, &check| break_check(check, sample));
    // The text's length is broken last: other breaks must not be added behind it.
    checks.iter().rev().fold(sample.signed(), |text, &check| break_text(check, text))
}

#[test]
fn every_check_fires_alone() {
    for check in ORDER {
        assert_eq!(refused(&broken(&[check])).1, check);
    }
}

#[test]
fn of_two_failures_the_earlier_check_speaks() {
    for (at, &first) in ORDER.iter().enumerate() {
        for &second in &ORDER[at + 1..] {
            assert_eq!(refused(&broken(&[first, second])).1, first, "{first} before {second}");
        }
    }
}

#[test]
fn of_all_failures_the_earliest_check_speaks() {
    for at in 0..ORDER.len() {
        assert_eq!(refused(&broken(&ORDER[at..])).1, ORDER[at]);
    }
}
