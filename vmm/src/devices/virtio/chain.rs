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
        let mut other = Self::default();
        match direction {
            Direction::FromGuest => load_request(self, &mut other, chain, memory, limit)?,
            Direction::ToGuest => load_request(&mut other, self, chain, memory, limit)?,
        }
        if other.parts.is_empty() { Ok(()) } else { Err("a buffer of the wrong direction".into()) }
    }

    fn clear(&mut self) {
        self.parts.clear();
        self.bytes = 0;
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
    pub fn pieces(
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

/// Sorts the buffers of a request: what the driver wrote into `readable`, where the device answers
/// into `writable`. The chain must end within `limit` descriptors, lie in RAM, and have all
/// readable buffers before the first writable one (virtio 1.2, section 2.7.4.2).
pub fn load_request(
    readable: &mut Buffers,
    writable: &mut Buffers,
    chain: DescriptorChain<&GuestRam>,
    memory: &GuestRam,
    limit: u16,
) -> Result<(), String> {
    readable.clear();
    writable.clear();
    let mut ended = false;
    for descriptor in chain {
        if readable.parts.len() + writable.parts.len() >= usize::from(limit) {
            return Err(format!("more than {limit} descriptors"));
        }
        let (buffers, permissions) = if descriptor.is_write_only() {
            (&mut *writable, Permissions::Write)
        } else if writable.parts.is_empty() {
            (&mut *readable, Permissions::Read)
        } else {
            return Err("a readable buffer after a writable one".into());
        };
        let length = descriptor.len() as usize;
        if length > 0 && !memory.check_range(descriptor.addr(), length, permissions) {
            let address = descriptor.addr().raw_value();
            return Err(format!("{length} bytes at {address:#x} are not all RAM"));
        }
        buffers.parts.push((descriptor.addr(), length));
        buffers.bytes = buffers.bytes.saturating_add(length);
        ended = !descriptor.has_next();
    }
    // The iterator stops without a word at a loop or at an index outside the table.
    if ended { Ok(()) } else { Err("the chain does not end".into()) }
}

fn require_all(done: usize, wanted: usize) -> Result<(), String> {
    if done == wanted { Ok(()) } else { Err(format!("{done} bytes where {wanted} are needed")) }
}
