//! What a notification does: packets out of the transmit queue, packets into the receive queue,
//! events into the event queue (virtio 1.2, section 5.10.2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::connection::ConnectionId;
use super::endpoints::HostEndpoints;
use super::muxer::{Muxer, Source};
use super::packet::{HEADER_BYTES, Header};
use crate::devices::virtio::chain::{Buffers, Direction};
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
    pub receive: Queue,
    pub transmit: Queue,
    pub event: Queue,
    pub interrupt: Arc<Interrupt>,
    pub faults: Arc<FaultLatch>,
    pub buffers: Buffers,
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
    let mut pass = Pass {
        memory: Arc::clone(&active.memory),
        active,
        muxer,
        host,
        budget,
        used: Used::default(),
    };
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
            notify_from_here(&mut pass.active.transmit, &pass.memory, TRANSMIT)?;
            break;
        }
    }
    pass.signal()
}

/// Queues in which buffers were used.
#[derive(Default)]
struct Used {
    receive: bool,
    transmit: bool,
    event: bool,
}

struct Pass<'a> {
    memory: Arc<GuestRam>,
    active: &'a mut Active,
    muxer: &'a mut Muxer,
    host: &'a mut HostEndpoints,
    budget: u32,
    used: Used,
}

impl Pass<'_> {
    /// Transmit queue: until it is empty, or answers have no more room.
    fn take_packets(&mut self) -> Result<(), DeviceFault> {
        let memory = Arc::clone(&self.memory);
        let broken = |e: virtio_queue::Error| broken(TRANSMIT, &e);
        loop {
            self.active.transmit.disable_notification(&*memory).map_err(broken)?;
            while self.muxer.can_receive() && self.budget > 0 {
                let Some(chain) = pop(&mut self.active.transmit, &memory, TRANSMIT)? else {
                    break;
                };
                self.budget -= 1;
                let head = chain.head_index();
                self.take_packet(chain)?;
                self.active.transmit.add_used(&*memory, head, 0).map_err(broken)?;
                self.used.transmit = true;
            }
            if !self.muxer.can_receive() {
                // The receive queue's notification brings us back here.
                return Ok(());
            }
            if self.budget == 0 {
                return Ok(());
            }
            if !self.active.transmit.enable_notification(&*memory).map_err(broken)? {
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
        let header = Header::parse(&bytes);
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
        let broken = |e: virtio_queue::Error| broken(RECEIVE, &e);
        if self.muxer.next_source().is_none() {
            return Ok(());
        }
        loop {
            self.active.receive.disable_notification(&*memory).map_err(broken)?;
            loop {
                let Some(source) = self.muxer.next_source() else {
                    return Ok(());
                };
                if self.budget == 0 {
                    return notify_from_here(&mut self.active.receive, &memory, RECEIVE);
                }
                let Some(chain) = pop(&mut self.active.receive, &memory, RECEIVE)? else {
                    break;
                };
                self.budget -= 1;
                let head = chain.head_index();
                let written = self.give_packet(source, chain)?;
                self.active.receive.add_used(&*memory, head, written).map_err(broken)?;
                self.used.receive = true;
            }
            if !self.active.receive.enable_notification(&*memory).map_err(broken)? {
                return Ok(());
            }
            self.budget = self.budget.saturating_sub(1);
        }
    }

    /// Writes one packet; returns its length with the header.
    fn give_packet(
        &mut self,
        source: Source,
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
        if let (Source::Connection(id), true) = (source, length > 0)
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
        let mut chain = pop(queue, &memory, EVENT)?;
        let broken = |e: virtio_queue::Error| broken(EVENT, &e);
        if chain.is_none() && queue.enable_notification(&*memory).map_err(broken)? {
            chain = pop(queue, &memory, EVENT)?;
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
        self.active.event.add_used(&*memory, head, TRANSPORT_RESET.len() as u32).map_err(broken)?;
        self.used.event = true;
        self.muxer.reset_event_due = false;
        Ok(())
    }

    /// One interrupt for all that was done. Asking every used queue also brings its `num_added`
    /// back to zero, which is why a queue's state is complete whenever the lock is free.
    fn signal(self) -> Result<(), DeviceFault> {
        let memory = &*self.memory;
        let queues = [
            (self.used.receive, &mut self.active.receive, RECEIVE),
            (self.used.transmit, &mut self.active.transmit, TRANSMIT),
            (self.used.event, &mut self.active.event, EVENT),
        ];
        // Work left over goes on when the driver acknowledges the interrupt.
        let mut wanted = self.budget == 0;
        for (used, queue, index) in queues {
            if used {
                wanted |= queue.needs_notification(memory).map_err(|e| broken(index, &e))?;
            }
        }
        if wanted {
            self.active.interrupt.signal_used().map_err(|e| DeviceFault::Host {
                device: DEVICE,
                reason: format!("cannot raise its interrupt: {e}"),
            })?;
        }
        Ok(())
    }
}

/// The next chain, whose head is inside the table.
fn pop<'m>(
    queue: &mut Queue,
    memory: &'m GuestRam,
    index: u16,
) -> Result<Option<DescriptorChain<&'m GuestRam>>, DeviceFault> {
    let chain = queue.iter(memory).map_err(|e| broken(index, &e))?.next();
    match chain {
        Some(chain) if chain.head_index() >= queue.size() => Err(DeviceFault::BrokenQueue {
            device: DEVICE,
            queue: index,
            reason: format!("descriptor {} in a table of {}", chain.head_index(), queue.size()),
        }),
        other => Ok(other),
    }
}

/// Stops with work left: asks to be notified of the next buffer the driver adds. The library can
/// only ask for the oldest one not taken, which the driver has announced already.
fn notify_from_here(queue: &mut Queue, memory: &GuestRam, index: u16) -> Result<(), DeviceFault> {
    queue.enable_notification(memory).map_err(|e| broken(index, &e))?;
    if !queue.event_idx_enabled() {
        return Ok(());
    }
    let tail = queue.avail_idx(memory, Ordering::Acquire).map_err(|e| broken(index, &e))?;
    // `avail_event` follows the ring of the used ring (section 2.7.8).
    let event = queue.used_ring().saturating_add(4 + 8 * u64::from(queue.size()));
    memory
        .store(tail.0.to_le(), GuestAddress(event), Ordering::SeqCst)
        .map_err(|e| broken(index, &virtio_queue::Error::GuestMemory(e)))
}

fn broken(queue: u16, error: &virtio_queue::Error) -> DeviceFault {
    DeviceFault::BrokenQueue { device: DEVICE, queue, reason: error.to_string() }
}

fn bad_chain(queue: u16, reason: String) -> DeviceFault {
    DeviceFault::BadChain { device: DEVICE, queue, reason }
}
