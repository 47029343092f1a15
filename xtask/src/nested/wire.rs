//! What the nested machine tells the host over its port: a kind byte, a big-endian u32 length and
//! that many bytes, either raw output or JSON.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::job::{Finished, Stream};

/// More than either side ever sends: a larger length means that the two are out of step.
const MAX_PAYLOAD: u32 = 1 << 20;
const STDOUT: u8 = b'o';
const STDERR: u8 = b'e';
const NOTICE: u8 = b'n';

/// One message of the nested machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Output of the job that runs.
    Output(Stream, Vec<u8>),
    Notice(Notice),
}

/// Everything but output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// `/dev/kvm` passed the self-check; the text says with what result.
    Ready { kvm: String },
    /// The machine is of no use; the text says why. Nothing follows.
    Unusable { why: String },
    /// The job with this index starts.
    Started { index: usize },
    /// The job with this index is over.
    Finished { index: usize, finished: Finished },
    /// The machine still works; told every few seconds.
    Alive,
    /// The job with this index has printed nothing for a long time. The text says what its
    /// processes wait for.
    Stuck { index: usize, report: String },
    /// All jobs are over and what they wrote to the host's files is there. Nothing follows.
    Done,
}

/// Writes one message.
pub fn send(port: &mut impl Write, message: &Message) -> io::Result<()> {
    let (kind, payload) = match message {
        Message::Output(Stream::Stdout, bytes) => (STDOUT, bytes.clone()),
        Message::Output(Stream::Stderr, bytes) => (STDERR, bytes.clone()),
        Message::Notice(notice) => (NOTICE, serde_json::to_vec(notice)?),
    };
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|length| *length <= MAX_PAYLOAD)
        .ok_or_else(|| io::Error::other("message too long"))?;
    let mut frame = vec![kind];
    frame.extend(length.to_be_bytes());
    frame.extend(payload);
    port.write_all(&frame)
}

/// Reads one message; `None` where the stream ends between two.
pub fn receive(port: &mut impl Read) -> io::Result<Option<Message>> {
    let mut kind = [0];
    if let Err(e) = port.read_exact(&mut kind) {
        return if e.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(e) };
    }
    let mut length = [0; 4];
    port.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_PAYLOAD {
        return Err(io::Error::other(format!("{length} bytes are too long for a message")));
    }
    let mut payload = vec![0; length as usize];
    port.read_exact(&mut payload)?;
    match kind[0] {
        STDOUT => Ok(Some(Message::Output(Stream::Stdout, payload))),
        STDERR => Ok(Some(Message::Output(Stream::Stderr, payload))),
        NOTICE => Ok(Some(Message::Notice(serde_json::from_slice(&payload)?))),
        kind => Err(io::Error::other(format!("unknown kind of message {kind:#04x}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::nested::job::Ended;

    #[test]
    fn messages_read_back_in_order() {
        let messages = [
            Message::Notice(Notice::Ready { kvm: "hardware".into() }),
            Message::Notice(Notice::Started { index: 0 }),
            Message::Output(Stream::Stdout, (0..=255).collect()),
            Message::Output(Stream::Stderr, Vec::new()),
            Message::Notice(Notice::Finished {
                index: 0,
                finished: Finished { ended: Ended::Exited(7), took: Duration::from_millis(3) },
            }),
            Message::Notice(Notice::Alive),
            Message::Notice(Notice::Stuck { index: 1, report: "waits".into() }),
            Message::Notice(Notice::Done),
        ];
        let mut bytes = Vec::new();
        for message in &messages {
            send(&mut bytes, message).unwrap();
        }
        let mut reader = bytes.as_slice();
        for message in messages {
            assert_eq!(receive(&mut reader).unwrap(), Some(message));
        }
        assert_eq!(receive(&mut reader).unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(receive(&mut b"o\xff\xff\xff\xff".as_slice()).is_err());
        assert!(receive(&mut b"?\0\0\0\0".as_slice()).is_err());
        assert!(receive(&mut b"n\0\0\0\x02{}".as_slice()).is_err());
        assert!(receive(&mut b"o\0\0\0\x05cut".as_slice()).is_err());
        assert!(send(&mut io::sink(), &Message::Output(Stream::Stdout, vec![0; 2 << 20])).is_err());
    }
}
