//! What the nested machine and the host tell each other over the machine's port.
//!
//! The machine sends a kind byte, a big-endian u32 length and that many bytes, either raw output or
//! JSON. The host sends orders of one or three bytes.

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

/// What the host tells the nested machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing to do: the byte only wakes the machine up.
    Nudge,
    /// Run the job with this index.
    Run(u16),
    /// No job is left.
    End,
}

const ORDER_NUDGE: u8 = 0;
const ORDER_RUN: u8 = 1;
const ORDER_END: u8 = 2;

impl Order {
    /// The order as bytes.
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Nudge => vec![ORDER_NUDGE],
            Self::Run(index) => [&[ORDER_RUN][..], &index.to_be_bytes()].concat(),
            Self::End => vec![ORDER_END],
        }
    }

    /// Takes the first order off `bytes`. `None` where it is not complete.
    pub fn decode(bytes: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let (order, length) = match bytes[..] {
            [] | [ORDER_RUN] | [ORDER_RUN, _] => return Ok(None),
            [ORDER_NUDGE, ..] => (Self::Nudge, 1),
            [ORDER_RUN, high, low, ..] => (Self::Run(u16::from_be_bytes([high, low])), 3),
            [ORDER_END, ..] => (Self::End, 1),
            [other, ..] => return Err(io::Error::other(format!("unknown order {other:#04x}"))),
        };
        bytes.drain(..length);
        Ok(Some(order))
    }
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
    fn orders_read_back_however_they_are_cut() {
        let orders = [Order::Nudge, Order::Run(7), Order::Nudge, Order::Run(0x0102), Order::End];
        let (mut bytes, mut read) = (Vec::new(), Vec::new());
        for byte in orders.iter().flat_map(|order| order.encode()) {
            bytes.push(byte);
            while let Some(order) = Order::decode(&mut bytes).unwrap() {
                read.push(order);
            }
        }
        assert_eq!(read, orders);
        assert!(Order::decode(&mut vec![3]).is_err());
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
