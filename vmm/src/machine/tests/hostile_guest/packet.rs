//! Packets as a guest writes them, right or wrong (virtio 1.2, section 5.10.6).

use super::rings::{self, Chain};
use super::stage::{CID, PORT};

pub const HEADER_BYTES: u64 = 44;
pub const REQUEST: u16 = 1;
pub const RESPONSE: u16 = 2;
pub const RESET: u16 = 3;
pub const DATA: u16 = 5;
pub const HOST: u64 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub from: u64,
    pub to: u64,
    pub from_port: u32,
    pub to_port: u32,
    /// What the header says; usually that of the payload.
    pub length: u32,
    pub kind: u16,
    pub op: u16,
    pub room: u32,
    pub taken: u32,
    pub payload: Vec<u8>,
}

impl Packet {
    /// Opens a connection to where the host listens.
    pub fn request(from_port: u32) -> Self {
        Self {
            from: CID,
            to: HOST,
            from_port,
            to_port: PORT,
            length: 0,
            kind: 1,
            op: REQUEST,
            room: 1 << 20,
            taken: 0,
            payload: Vec::new(),
        }
    }

    pub fn with(self, payload: &[u8]) -> Self {
        Self { length: payload.len() as u32, payload: payload.to_vec(), ..self }
    }

    pub fn header(&self) -> Vec<u8> {
        [
            &self.from.to_le_bytes()[..],
            &self.to.to_le_bytes(),
            &self.from_port.to_le_bytes(),
            &self.to_port.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &[0; 4],
            &self.room.to_le_bytes(),
            &self.taken.to_le_bytes(),
        ]
        .concat()
    }

    /// Where the header goes, and the payload if there is one.
    pub fn chain(&self) -> Chain {
        let header = (rings::HEADER, HEADER_BYTES as u32, false);
        match self.payload.len() as u32 {
            0 => rings::chain(&[header]),
            length => rings::chain(&[header, (rings::DATA, length, false)]),
        }
    }

    /// The header of a packet that came.
    pub fn parse(bytes: &[u8; HEADER_BYTES as usize]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            from: long(0),
            to: long(8),
            from_port: word(16),
            to_port: word(20),
            length: word(24),
            kind: word(28) as u16,
            op: (word(28) >> 16) as u16,
            room: word(36),
            taken: word(40),
            payload: Vec::new(),
        }
    }
}
