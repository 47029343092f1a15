//! One descriptor chain as a flat run of bytes, checked before anything is touched.

use virtio_queue::DescriptorChain;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, Permissions};

use crate::memory::GuestRam;

/// What the device may do with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The driver wrote it, the device reads.
    FromGuest,
    /// The device writes.
    ToGuest,
}

/// The buffers of one chain, in order. Kept between chains for its allocation.
#[derive(Debug, Default)]
pub struct Buffers {
    parts: Vec<(GuestAddress, usize)>,
    bytes: usize,
}

impl Buffers {
    /// Replaces the content with the buffers of `chain`. It must end within `limit` descriptors,
    /// lie in RAM and be of one direction.
    pub fn load(
        &mut self,
        chain: DescriptorChain<&GuestRam>,
        memory: &GuestRam,
        direction: Direction,
        limit: u16,
    ) -> Result<(), String> {
        self.parts.clear();
        self.bytes = 0;
        let permissions = match direction {
            Direction::FromGuest => Permissions::Read,
            Direction::ToGuest => Permissions::Write,
        };
        let mut ended = false;
        for descriptor in chain {
            if self.parts.len() >= usize::from(limit) {
                return Err(format!("more than {limit} descriptors"));
            }
            if descriptor.is_write_only() != (direction == Direction::ToGuest) {
                return Err("a buffer of the wrong direction".into());
            }
            let length = descriptor.len() as usize;
            if length > 0 && !memory.check_range(descriptor.addr(), length, permissions) {
                return Err(format!(
                    "{length} bytes at {:#x} are not all RAM",
                    descriptor.addr().raw_value()
                ));
            }
            self.parts.push((descriptor.addr(), length));
            self.bytes = self.bytes.saturating_add(length);
            ended = !descriptor.has_next();
        }
        // The iterator stops without a word at a loop or at an index outside the table.
        if ended { Ok(()) } else { Err("the chain does not end".into()) }
    }

    /// Bytes of the whole chain.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills `data` from `offset` on.
    pub fn read(&self, memory: &GuestRam, offset: usize, data: &mut [u8]) -> Result<(), String> {
        let mut done = 0;
        for (address, length) in self.pieces(offset, data.len()) {
            let now = data.get_mut(done..done + length).unwrap_or_default();
            memory.read_slice(now, address).map_err(|e| e.to_string())?;
            done += length;
        }
        require_all(done, data.len())
    }

    /// Writes `data` from `offset` on.
    pub fn write(&self, memory: &GuestRam, offset: usize, data: &[u8]) -> Result<(), String> {
        let mut done = 0;
        for (address, length) in self.pieces(offset, data.len()) {
            let now = data.get(done..done + length).unwrap_or_default();
            memory.write_slice(now, address).map_err(|e| e.to_string())?;
            done += length;
        }
        require_all(done, data.len())
    }

    /// Address and length of each piece of the `count` bytes from `offset` on.
    fn pieces(
        &self,
        offset: usize,
        count: usize,
    ) -> impl Iterator<Item = (GuestAddress, usize)> + '_ {
        let (mut skip, mut left) = (offset, count);
        self.parts.iter().filter_map(move |&(address, length)| {
            let skipped = skip.min(length);
            skip -= skipped;
            let taken = (length - skipped).min(left);
            left -= taken;
            let start = address.checked_add(skipped as u64)?;
            (taken > 0).then_some((start, taken))
        })
    }
}

fn require_all(done: usize, wanted: usize) -> Result<(), String> {
    if done == wanted { Ok(()) } else { Err(format!("{done} bytes where {wanted} are needed")) }
}
