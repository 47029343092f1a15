//! What agent and key holder say to each other.
//!
//! 1. Agent: [`Opening`], packed. Key holder: [`Answer`], packed, once it is locked down.
//! 2. Then, as often as needed: agent: a time, eight bytes. Key holder: [`Proof`], 65 bytes.
//!
//! Packed: the length in two bytes, then JSON. Numbers are big-endian.

use std::io::{self, Read};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::PublicIdentity;
use crate::protocol::Timestamp;

/// Longest packed JSON, in bytes.
const MAX_PACKED: usize = 16 << 10;
/// Bytes of the question for a proof.
pub const ASK_BYTES: usize = 8;
/// Bytes of a proof: one that says whether it was signed, and the signature.
pub const PROOF_BYTES: usize = 65;
const SIGNED: u8 = 1;

/// Which identity to hold.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// Path of the identity file.
    pub identity: String,
    /// Whose it must be.
    pub endpoint: Option<String>,
}

/// Whether the key holder is ready.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is.
    Ready(PublicIdentity),
    /// It is not, because.
    Unready(String),
}

/// The answer to a question for a proof.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// The signature.
    Signed([u8; 64]),
    /// The time is not now.
    NotNow,
}

/// The bytes of a message; none when it would be too long.
pub fn pack(message: &impl Serialize) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(message).ok().filter(|json| json.len() <= MAX_PACKED)?;
    let length = u16::try_from(json.len()).ok()?;
    Some([&length.to_be_bytes()[..], &json].concat())
}

/// Reads a packed message.
pub fn read_packed<T: DeserializeOwned>(from: &mut dyn Read) -> io::Result<T> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_PACKED {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut json = vec![0; length];
    from.read_exact(&mut json)?;
    serde_json::from_slice(&json).map_err(Into::into)
}

/// The question for a proof.
pub fn ask(ts: Timestamp) -> [u8; ASK_BYTES] {
    ts.millis().to_be_bytes()
}

/// The time in a question; none when it is not one that RFC 3339 can write.
pub fn asked(question: [u8; ASK_BYTES]) -> Option<Timestamp> {
    let millis = i64::from_be_bytes(question);
    Some(Timestamp::from_millis(millis)).filter(|ts| ts.millis() == millis)
}

/// The bytes of a proof.
pub fn pack_proof(proof: &Proof) -> [u8; PROOF_BYTES] {
    let mut bytes = [0; PROOF_BYTES];
    if let Proof::Signed(signature) = proof {
        let (first, rest) = bytes.split_at_mut(1);
        first.fill(SIGNED);
        rest.copy_from_slice(signature);
    }
    bytes
}

/// Reads a proof.
pub fn read_proof(from: &mut dyn Read) -> io::Result<Proof> {
    let mut signed = [0; 1];
    let mut signature = [0; 64];
    from.read_exact(&mut signed)?;
    from.read_exact(&mut signature)?;
    match signed {
        [SIGNED] => Ok(Proof::Signed(signature)),
        [0] => Ok(Proof::NotNow),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_packed_reads_back_and_nothing_long_is_packed() {
        let opening = Opening { identity: "/x".to_owned(), endpoint: None };
        let bytes = pack(&opening).unwrap();
        assert_eq!(read_packed::<Opening>(&mut &bytes[..]).unwrap(), opening);
        let long = Opening { identity: "x".repeat(MAX_PACKED), endpoint: None };
        assert_eq!(pack(&long), None);
        assert!(read_packed::<Opening>(&mut &vec![0xff; 70_000][..]).is_err());
        assert!(read_packed::<Opening>(&mut &bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn a_proof_reads_back_and_any_other_first_byte_is_none() {
        for proof in [Proof::Signed([7; 64]), Proof::NotNow] {
            assert_eq!(read_proof(&mut &pack_proof(&proof)[..]).unwrap(), proof);
        }
        assert!(read_proof(&mut &[2; PROOF_BYTES][..]).is_err());
    }

    #[test]
    fn times_beyond_the_calendar_are_no_times() {
        assert_eq!(asked(ask(Timestamp::from_millis(5))), Some(Timestamp::from_millis(5)));
        assert_eq!(asked(i64::MAX.to_be_bytes()), None);
        assert_eq!(asked(i64::MIN.to_be_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_packed::<Opening>(&mut &bytes[..]);
            let _ = read_packed::<Answer>(&mut &bytes[..]);
            let _ = read_proof(&mut &bytes[..]);
        }
    }
}
