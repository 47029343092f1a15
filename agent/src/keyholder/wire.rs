//! What agent and key holder say to each other.
//!
//! 1. Agent: [`Opening`], packed. Key holder: [`Readiness`], packed, once it is locked down.
//! 2. Then, as often as needed: agent: [`Question`], 33 bytes, the first of which says what it asks
//!    for. Key holder: [`Reply`], 65 bytes, the first of which says whether there is one.
//!
//! Packed: the length in two bytes, then JSON. Numbers are big-endian.

use std::io::{self, Read};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::PublicIdentity;
use protocol::Timestamp;

/// Longest packed JSON, in bytes.
const MAX_PACKED: usize = 16 << 10;
/// Bytes of a question: its kind, and a time in eight bytes followed by zeros, or a digest.
pub const ASK_BYTES: usize = 33;
/// Bytes of an answer: one that says whether it was given, and a signature, or a MAC followed by
/// zeros.
pub const REPLY_BYTES: usize = 65;
const GIVEN: u8 = 1;
const PROOF: u8 = 1;
const BUNDLE: u8 = 2;
const BASELINE_MAC: u8 = 3;

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
pub enum Readiness {
    /// It is.
    Ready(PublicIdentity),
    /// It is not, because.
    Unready(String),
}

/// The answer to a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// What was asked for.
    Given([u8; 64]),
    /// It is no question, or its time is not now.
    Refused,
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

/// What the agent may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// A proof for a connection that is opened at this time.
    Proof(Timestamp),
    /// A signature for the evidence bundle with this SHA-256.
    Bundle([u8; 32]),
    /// The MAC of a store of baselines with this SHA-256.
    BaselineMac([u8; 32]),
}

impl Question {
    /// Bytes of the message.
    pub fn pack(self) -> [u8; ASK_BYTES] {
        let mut bytes = [0; ASK_BYTES];
        let [kind, rest @ ..] = &mut bytes;
        match self {
            Self::Proof(ts) => {
                *kind = PROOF;
                let (millis, _) = rest.split_at_mut(8);
                millis.copy_from_slice(&ts.millis().to_be_bytes());
            }
            Self::Bundle(digest) => {
                *kind = BUNDLE;
                rest.copy_from_slice(&digest);
            }
            Self::BaselineMac(digest) => {
                *kind = BASELINE_MAC;
                rest.copy_from_slice(&digest);
            }
        }
        bytes
    }

    /// Reads one; none when it is no question, such as one for a time RFC 3339 cannot write.
    pub fn read(bytes: [u8; ASK_BYTES]) -> Option<Self> {
        let [kind, rest @ ..] = bytes;
        match kind {
            PROOF => {
                let (millis, zeros) = rest.split_first_chunk()?;
                let millis = i64::from_be_bytes(*millis);
                let ts = Some(Timestamp::from_millis(millis)).filter(|ts| ts.millis() == millis)?;
                zeros.iter().all(|byte| *byte == 0).then_some(Self::Proof(ts))
            }
            BUNDLE => Some(Self::Bundle(rest)),
            BASELINE_MAC => Some(Self::BaselineMac(rest)),
            _ => None,
        }
    }
}

/// The bytes of an answer.
pub fn pack_reply(reply: &Reply) -> [u8; REPLY_BYTES] {
    let mut bytes = [0; REPLY_BYTES];
    if let Reply::Given(given) = reply {
        let (first, rest) = bytes.split_at_mut(1);
        first.fill(GIVEN);
        rest.copy_from_slice(given);
    }
    bytes
}

/// Reads an answer.
pub fn read_reply(from: &mut dyn Read) -> io::Result<Reply> {
    let mut first = [0; 1];
    let mut given = [0; 64];
    from.read_exact(&mut first)?;
    from.read_exact(&mut given)?;
    match first {
        [GIVEN] => Ok(Reply::Given(given)),
        [0] => Ok(Reply::Refused),
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
    fn a_reply_reads_back_and_any_other_first_byte_is_none() {
        for reply in [Reply::Given([7; 64]), Reply::Refused] {
            assert_eq!(read_reply(&mut &pack_reply(&reply)[..]).unwrap(), reply);
        }
        assert!(read_reply(&mut &[2; REPLY_BYTES][..]).is_err());
    }

    #[test]
    fn a_question_reads_back_and_nothing_else_is_one() {
        let ts = Timestamp::from_millis(5);
        for question in
            [Question::Proof(ts), Question::Bundle([8; 32]), Question::BaselineMac([9; 32])]
        {
            assert_eq!(Question::read(question.pack()), Some(question));
        }
        for kind in [0, 4, 255] {
            let mut bytes = Question::Bundle([8; 32]).pack();
            bytes[0] = kind;
            assert_eq!(Question::read(bytes), None);
        }
        let mut more = Question::Proof(ts).pack();
        more[32] = 1;
        assert_eq!(Question::read(more), None);
        for millis in [i64::MAX, i64::MIN] {
            let mut beyond = Question::Proof(ts).pack();
            beyond[1..9].copy_from_slice(&millis.to_be_bytes());
            assert_eq!(Question::read(beyond), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_packed::<Opening>(&mut &bytes[..]);
            let _ = read_packed::<Readiness>(&mut &bytes[..]);
            let _ = read_reply(&mut &bytes[..]);
        }
    }
}
