//! The packet header (virtio 1.2, section 5.10.6), to the byte.

use serde::{Deserialize, Serialize};

/// Size of a header on the wire.
pub const HEADER_BYTES: usize = 44;
/// The well-known CID of the host (section 5.10.4).
pub const HOST_CID: u64 = 2;
/// Socket type: stream. The only one offered.
pub const TYPE_STREAM: u16 = 1;
/// `SHUTDOWN` flag: the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// `SHUTDOWN` flag: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both `SHUTDOWN` flags.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Open a connection.
    Request = 1,
    /// Accept it.
    Response = 2,
    /// Refuse or end it at once.
    Rst = 3,
    /// One or both directions are over.
    Shutdown = 4,
    /// Carries payload.
    Rw = 5,
    /// Tells how much the sender can buffer.
    CreditUpdate = 6,
    /// Asks for a `CreditUpdate`.
    CreditRequest = 7,
}

impl Op {
    /// The operation with this number.
    pub fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Rst,
            4 => Self::Shutdown,
            5 => Self::Rw,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// `struct virtio_vsock_hdr`. All fields are little-endian on the wire, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PacketHeader {
    /// Who sends.
    pub src_cid: u64,
    /// Who is meant.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Payload bytes after the header.
    pub len: u32,
    /// Socket type.
    pub kind: u16,
    /// An [`Op`], not yet checked.
    pub op: u16,
    /// Meaning depends on `op`.
    pub flags: u32,
    /// Size of the sender's receive buffer.
    pub buf_alloc: u32,
    /// Bytes the sender's application has taken from that buffer; wraps.
    pub fwd_cnt: u32,
}

impl PacketHeader {
    /// Reads a header.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        Self {
            src_cid: u64::from_le_bytes(field(bytes, 0)),
            dst_cid: u64::from_le_bytes(field(bytes, 8)),
            src_port: u32::from_le_bytes(field(bytes, 16)),
            dst_port: u32::from_le_bytes(field(bytes, 20)),
            len: u32::from_le_bytes(field(bytes, 24)),
            kind: u16::from_le_bytes(field(bytes, 28)),
            op: u16::from_le_bytes(field(bytes, 30)),
            flags: u32::from_le_bytes(field(bytes, 32)),
            buf_alloc: u32::from_le_bytes(field(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(field(bytes, 40)),
        }
    }

    /// Builds the bytes of a header.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let fields: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        let mut bytes = [0; HEADER_BYTES];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// The reset that answers this packet.
    pub fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Rst as u16,
            ..Self::default()
        }
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_field_lies_where_the_specification_puts_it() {
        let header = PacketHeader {
            src_cid: 0x0807_0605_0403_0201,
            dst_cid: 0x100f_0e0d_0c0b_0a09,
            src_port: 0x1413_1211,
            dst_port: 0x1817_1615,
            len: 0x1c1b_1a19,
            kind: 0x1e1d,
            op: 0x201f,
            flags: 0x2423_2221,
            buf_alloc: 0x2827_2625,
            fwd_cnt: 0x2c2b_2a29,
        };
        let bytes: Vec<u8> = (1..=44).collect();
        assert_eq!(header.to_bytes().as_slice(), bytes);
    }

    #[test]
    fn operations_have_the_numbers_of_the_specification() {
        for raw in 1..=7 {
            assert_eq!(Op::from_raw(raw).unwrap() as u16, raw);
        }
        for raw in [0, 8, u16::MAX] {
            assert_eq!(Op::from_raw(raw), None);
        }
    }

    proptest! {
        #[test]
        fn parse_and_build_are_inverse(bytes in proptest::array::uniform32(any::<u8>()),
                                       tail in proptest::array::uniform12(any::<u8>())) {
            let mut wire = [0; HEADER_BYTES];
            wire[..32].copy_from_slice(&bytes);
            wire[32..].copy_from_slice(&tail);
            prop_assert_eq!(PacketHeader::parse(&wire).to_bytes(), wire);
        }
    }
}
