//! New time and new randomness for every command. Machines that go on from the same memory have
//! the same clock and the same random numbers until the host gives them others.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::evidence::format_sha256;

/// Random bytes in every dispatch.
pub const ENTROPY_BYTES: usize = 32;
/// Their length in base64.
const ENTROPY_TEXT_BYTES: usize = ENTROPY_BYTES.div_ceil(3) * 4;

/// What the guest takes over before it starts a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// Nanoseconds since the Unix epoch when the host sent this.
    pub wall_time_ns: u64,
    /// [`ENTROPY_BYTES`] random bytes in standard base64, used for this command only.
    #[serde(deserialize_with = "entropy_text")]
    pub entropy: String,
}

/// The guest's clock is set and its random pool reseeded. Sent before the tool is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshnessAck {
    /// The command.
    pub command_id: String,
    /// The guest's clock after it was set, in nanoseconds since the Unix epoch.
    pub guest_time_ns: u64,
    /// Hash of the random bytes the pool was reseeded with: `sha256:` and 64 hex digits.
    pub entropy_sha256: String,
}

impl Freshness {
    /// Writes `entropy` as the wire wants it.
    pub fn new(wall_time_ns: u64, entropy: &[u8; ENTROPY_BYTES]) -> Self {
        Self { wall_time_ns, entropy: STANDARD.encode(entropy) }
    }

    /// The random bytes; `None` when the text is something else.
    pub fn entropy_bytes(&self) -> Option<[u8; ENTROPY_BYTES]> {
        decode_entropy(&self.entropy)
    }
}

/// The hash of random bytes as [`FreshnessAck`] carries it.
pub fn entropy_sha256(entropy: &[u8; ENTROPY_BYTES]) -> String {
    format_sha256(&Sha256::digest(entropy).into())
}

/// Looks at the length first: a text of any other one is not worth decoding.
fn decode_entropy(text: &str) -> Option<[u8; ENTROPY_BYTES]> {
    if text.len() != ENTROPY_TEXT_BYTES {
        return None;
    }
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// Reads the random bytes of a dispatch. Its error does not repeat them.
fn entropy_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match decode_entropy(&text) {
        Some(_) => Ok(text),
        None => Err(serde::de::Error::custom(format!(
            "entropy is {ENTROPY_BYTES} bytes in standard base64"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Freshness, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn what_is_written_is_read_again_to_the_nanosecond() {
        // More than a double holds exactly.
        let freshness = Freshness::new((1 << 60) + 1, &[0xa5; ENTROPY_BYTES]);
        let text = serde_json::to_string(&freshness).unwrap();
        let found: Freshness = serde_json::from_str(&text).unwrap();
        assert_eq!(found, freshness);
        assert_eq!(found.entropy_bytes(), Some([0xa5; ENTROPY_BYTES]));
    }

    #[test]
    fn only_the_base64_of_thirty_two_bytes_is_entropy() {
        for bytes in [0, 1, 31, 33, 34, 64] {
            let entropy = STANDARD.encode(vec![7; bytes]);
            assert!(read(json!({"wall_time_ns": 1, "entropy": entropy})).is_err(), "{bytes}");
        }
        let good = STANDARD.encode([7; ENTROPY_BYTES]);
        let no_base64 = good.replace('=', "!");
        let unpadded = good.trim_end_matches('=');
        for entropy in [json!(no_base64), json!(unpadded), json!(null), json!([7]), json!(7)] {
            assert!(read(json!({"wall_time_ns": 1, "entropy": entropy})).is_err(), "{entropy}");
        }
        assert!(read(json!({"wall_time_ns": 1, "entropy": good})).is_ok());
    }

    #[test]
    fn both_fields_are_needed_and_no_others() {
        let good = STANDARD.encode([7; ENTROPY_BYTES]);
        for bad in [
            json!({"wall_time_ns": 1}),
            json!({"entropy": good}),
            json!({"wall_time_ns": 1, "entropy": good, "extra": 1}),
            json!({"wall_time_ns": -1, "entropy": good}),
            json!({"wall_time_ns": 1.5, "entropy": good}),
            json!({"wall_time_ns": "1", "entropy": good}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_known_hash() {
        // Computed elsewhere: 32 zero bytes.
        assert_eq!(
            entropy_sha256(&[0; ENTROPY_BYTES]),
            "sha256:66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        );
    }
}
