//! What a notification does: packets out of the transmit queue, packets into the receive queue,
//! events into the event queue (virtio 1.2, section 5.10.2).

use std::sync::Arc;

use virtio_queue::{DescriptorChain, Queue};

use super::connection::ConnectionId;
use super::endpoints::HostEndpoints;
use super::muxer::{Muxer, PacketSource};
use super::packet::{HEADER_BYTES, PacketHeader};
use crate::devices::virtio::chain::{Buffers, Direction};
use crate::devices::virtio::virtqueue::{QueueName, Virtqueue, signal};
use crate::devices::virtio::{DeviceFault, FaultLatch, Interrupt};
use crate::memory::GuestRam;

/// Device to driver.
pub const RECEIVE: u16 = 0;
/// Driver to device.
pub const TRANSMIT: u16 = 1;
/// Events.
pub const EVENT: u16 = 2;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` as it lies in memory.
const TRANSPORT_RESET: [u8; 4] = [0; 4];
/// Packets handled in one go. Only a guest that refills a queue while it is emptied meets this
/// bound; without it, such a guest could keep a vCPU thread, and the lock, for ever.
const BUDGET: u32 = 4096;
/// Payload is copied in pieces that stay in the first-level cache.
const COPY_BYTES: usize = 4096;

const DEVICE: &str = "vsock";

/// What exists from activation to reset.
pub struct Active {
    pub memory: Arc<GuestRam>,
    pub receive: Virtqueue,
    pub transmit: Virtqueue,
    pub event: Virtqueue,
    pub interrupt: Arc<Interrupt>,
    pub faults: Arc<FaultLatch>,
    pub buffers: Buffers,
}

impl Active {
    /// The receive, transmit and event queue as the transport configured them.
    pub fn queues(queues: [Queue; 3]) -> [Virtqueue; 3] {
        let [receive, transmit, event] = queues;
        let queues = [(RECEIVE, receive), (TRANSMIT, transmit), (EVENT, event)];
        queues.map(|(index, queue)| Virtqueue::new(name(index), queue))
    }
}

/// Does everything that can be done now without waiting. Every host call and every notification
/// ends here.
pub fn service(
    active: &mut Active,
    muxer: &mut Muxer,
    host: &mut HostEndpoints,
) -> Result<(), DeviceFault> {
    service_within(BUDGET, active, muxer, host)
}

/// [`service`], for at most `budget` packets.
pub fn service_within(
    budget: u32,
    active: &mut Active,
    muxer: &mut Muxer,
    host: &mut HostEndpoints,
) -> Result<(), DeviceFault> {
    let mut pass = Pass { memory: Arc::clone(&active.memory), active, muxer, host, budget };
    pass.send_event()?;
    loop {
        if pass.muxer.transmit_waiting && pass.muxer.can_receive() && pass.budget > 0 {
            pass.take_packets()?;
        }
        pass.give_packets()?;
        // Answers that found a buffer may have made room for more packets.
        if !pass.muxer.transmit_waiting || !pass.muxer.can_receive() {
            break;
        }
        if pass.budget == 0 {
            pass.active.transmit.notify_from_here(&pass.memory)?;
            break;
        }
    }
    pass.signal()
}

struct Pass<'a> {
    memory: Arc<GuestRam>,
    active: &'a mut Active,
    muxer: &'a mut Muxer,
    host: &'a mut HostEndpoints,
    budget: u32,
}

impl Pass<'_> {
    /// Transmit queue: until it is empty, or answers have no more room.
    fn take_packets(&mut self) -> Result<(), DeviceFault> {
        let memory = Arc::clone(&self.memory);
        loop {
            self.active.transmit.disable_notification(&memory)?;
            while self.muxer.can_receive() && self.budget > 0 {
                let Some(chain) = self.active.transmit.pop(&memory)? else {
                    break;
                };
                self.budget -= 1;
                let head = chain.head_index();
                self.take_packet(chain)?;
                self.active.transmit.add_used(&memory, head, 0)?;
            }
            if !self.muxer.can_receive() {
                // The receive queue's notification brings us back here.
                return Ok(());
            }
            if self.budget == 0 {
                return Ok(());
            }
            if !self.active.transmit.enable_notification(&memory)? {
                self.muxer.transmit_waiting = false;
                return Ok(());
            }
            self.budget -= 1;
        }
    }

    fn take_packet(&mut self, chain: DescriptorChain<&GuestRam>) -> Result<(), DeviceFault> {
        let bad = |reason| bad_chain(TRANSMIT, reason);
        let memory = &*self.memory;
        let buffers = &mut self.active.buffers;
        let limit = self.active.transmit.size();
        buffers.load(chain, memory, Direction::FromGuest, limit).map_err(bad)?;
        let mut bytes = [0; HEADER_BYTES];
        buffers.read(memory, 0, &mut bytes).map_err(bad)?;
        let header = PacketHeader::parse(&bytes);
        let length = header.len as usize;
        let present = buffers.bytes().saturating_sub(HEADER_BYTES);
        if length > present {
            return Err(bad(format!(
                "a payload of {length} bytes in a chain with room for {present}"
            )));
        }
        if let Some(id) = self.muxer.receive(&header, self.host) {
            self.take_payload(id, length)?;
        }
        Ok(())
    }

    fn take_payload(&mut self, id: ConnectionId, length: usize) -> Result<(), DeviceFault> {
        let Some(connection) = self.muxer.get_mut(id) else {
            return Ok(());
        };
        let mut piece = [0; COPY_BYTES];
        let mut done = 0;
        while done < length {
            let count = (length - done).min(COPY_BYTES);
            let piece = piece.get_mut(..count).unwrap_or_default();
            self.active
                .buffers
                .read(&self.memory, HEADER_BYTES + done, piece)
                .map_err(|reason| bad_chain(TRANSMIT, reason))?;
            connection.receive.extend(&*piece);
            done += count;
        }
        self.host.counters.bytes_from_guest += length as u64;
        self.host.wake(id);
        Ok(())
    }

    /// Receive queue: until there is nothing to send or no buffer to send it in. Notifications
    /// are only wanted in the second case, so a guest without buffers costs nothing.
    fn give_packets(&mut self) -> Result<(), DeviceFault> {
        let memory = Arc::clone(&self.memory);
        if self.muxer.next_source().is_none() {
            return Ok(());
        }
        loop {
            self.active.receive.disable_notification(&memory)?;
            loop {
                let Some(source) = self.muxer.next_source() else {
                    return Ok(());
                };
                if self.budget == 0 {
                    return self.active.receive.notify_from_here(&memory);
                }
                let Some(chain) = self.active.receive.pop(&memory)? else {
                    break;
                };
                self.budget -= 1;
                let head = chain.head_index();
                let written = self.give_packet(source, chain)?;
                self.active.receive.add_used(&memory, head, written)?;
            }
            if !self.active.receive.enable_notification(&memory)? {
                return Ok(());
            }
            self.budget = self.budget.saturating_sub(1);
        }
    }

    /// Writes one packet; returns its length with the header.
    fn give_packet(
        &mut self,
        source: PacketSource,
        chain: DescriptorChain<&GuestRam>,
    ) -> Result<u32, DeviceFault> {
        let bad = |reason| bad_chain(RECEIVE, reason);
        let memory = &*self.memory;
        let buffers = &mut self.active.buffers;
        let limit = self.active.receive.size();
        buffers.load(chain, memory, Direction::ToGuest, limit).map_err(bad)?;
        let room = buffers.bytes().saturating_sub(HEADER_BYTES);
        if room == 0 {
            return Err(bad(format!(
                "a receive buffer of {} bytes has no room for a packet",
                buffers.bytes()
            )));
        }
        let Some((header, outgoing)) = self.muxer.packet(source, room) else {
            return Ok(0);
        };
        buffers.write(memory, 0, &header.to_bytes()).map_err(bad)?;
        let length = header.len as usize;
        if let (PacketSource::Connection(id), true) = (source, length > 0)
            && let Some(connection) = self.muxer.get(id)
        {
            let (front, back) = connection.send.as_slices();
            let front = front.get(..length).unwrap_or(front);
            let back = back.get(..length - front.len()).unwrap_or(back);
            let middle = HEADER_BYTES + front.len();
            buffers.write(memory, HEADER_BYTES, front).map_err(bad)?;
            buffers.write(memory, middle, back).map_err(bad)?;
        }
        self.muxer.on_sent(source, outgoing.as_ref(), self.host);
        Ok((HEADER_BYTES + length) as u32)
    }

    fn send_event(&mut self) -> Result<(), DeviceFault> {
        if !self.muxer.reset_event_due {
            return Ok(());
        }
        let memory = Arc::clone(&self.memory);
        let queue = &mut self.active.event;
        let mut chain = queue.pop(&memory)?;
        if chain.is_none() && queue.enable_notification(&memory)? {
            chain = queue.pop(&memory)?;
        }
        let Some(chain) = chain else {
            return Ok(());
        };
        let head = chain.head_index();
        let limit = self.active.event.size();
        let buffers = &mut self.active.buffers;
        buffers
            .load(chain, &memory, Direction::ToGuest, limit)
            .and_then(|()| buffers.write(&memory, 0, &TRANSPORT_RESET))
            .map_err(|reason| bad_chain(EVENT, reason))?;
        self.active.event.add_used(&memory, head, TRANSPORT_RESET.len() as u32)?;
        self.muxer.reset_event_due = false;
        Ok(())
    }

    /// One interrupt for all that was done. Work left over goes on when the driver acknowledges it.
    fn signal(self) -> Result<(), DeviceFault> {
        let Active { receive, transmit, event, interrupt, .. } = self.active;
        signal([receive, transmit, event], &self.memory, interrupt, self.budget == 0)
    }
}

fn name(queue: u16) -> QueueName {
    QueueName { device: DEVICE, queue }
}

fn bad_chain(queue: u16, reason: String) -> DeviceFault {
    name(queue).bad_chain(reason)
}
