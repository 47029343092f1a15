//! One virtqueue as every device uses it: chains out, used buffers in, and the rule about when a
//! queue's state is complete.

use std::sync::atomic::Ordering;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{DeviceFault, Interrupt, StateError};
use crate::memory::GuestRam;

/// Which queue of which device: the name faults carry.
#[derive(Debug, Clone, Copy)]
pub struct QueueName {
    /// The device.
    pub device: &'static str,
    /// Queue index.
    pub queue: u16,
}

impl QueueName {
    /// A ring that cannot be read or written.
    pub fn broken(self, error: &virtio_queue::Error) -> DeviceFault {
        self.broken_because(error.to_string())
    }

    /// A ring whose content makes no sense.
    pub fn broken_because(self, reason: String) -> DeviceFault {
        DeviceFault::BrokenQueue { device: self.device, queue: self.queue, reason }
    }

    /// A chain that cannot be answered.
    pub fn bad_chain(self, reason: String) -> DeviceFault {
        DeviceFault::BadChain { device: self.device, queue: self.queue, reason }
    }
}

/// A queue of an active device.
///
/// The library's queue counts in `num_added` the buffers that were used since it last asked whether
/// to interrupt, and leaves that count out of its [`QueueState`]. [`signal`] brings it back to zero.
/// A device calls [`signal`] for all its queues before it lets go of its lock, so a queue's state is
/// complete whenever the lock is free.
pub struct Virtqueue {
    name: QueueName,
    queue: Queue,
    /// Buffers were used since the last [`signal`].
    used: bool,
}

impl Virtqueue {
    /// Takes over a queue that the transport has configured.
    pub fn new(name: QueueName, queue: Queue) -> Self {
        Self { name, queue, used: false }
    }

    /// Entries of the ring: also the most descriptors a chain may have (virtio 1.2, section
    /// 2.7.5.3.1).
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Positions in the rings. Complete after [`signal`].
    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Restores the positions. On an error nothing has changed.
    ///
    /// # Errors
    ///
    /// No queue can be in this state.
    pub fn restore(&mut self, state: QueueState) -> Result<(), StateError> {
        self.queue = Queue::try_from(state).map_err(|_| StateError::Queue)?;
        self.used = false;
        Ok(())
    }

    /// The next chain of the avail ring, whose head is inside the descriptor table.
    ///
    /// # Errors
    ///
    /// The ring cannot be trusted any more.
    pub fn pop<'m>(
        &mut self,
        memory: &'m GuestRam,
    ) -> Result<Option<DescriptorChain<&'m GuestRam>>, DeviceFault> {
        let chain = self.queue.iter(memory).map_err(|e| self.name.broken(&e))?.next();
        match chain {
            Some(chain) if chain.head_index() >= self.queue.size() => {
                Err(self.name.broken_because(format!(
                    "descriptor {} in a table of {}",
                    chain.head_index(),
                    self.queue.size()
                )))
            }
            other => Ok(other),
        }
    }

    /// Puts the chain that begins at `head` into the used ring, with `written` bytes written to it.
    ///
    /// # Errors
    ///
    /// The used ring cannot be written.
    pub fn add_used(
        &mut self,
        memory: &GuestRam,
        head: u16,
        written: u32,
    ) -> Result<(), DeviceFault> {
        self.queue.add_used(memory, head, written).map_err(|e| self.name.broken(&e))?;
        self.used = true;
        Ok(())
    }

    /// Tells the driver that it need not notify.
    ///
    /// # Errors
    ///
    /// The ring cannot be written.
    pub fn disable_notification(&mut self, memory: &GuestRam) -> Result<(), DeviceFault> {
        self.queue.disable_notification(memory).map_err(|e| self.name.broken(&e))
    }

    /// Asks the driver to notify of the next chain. True when there is one already, which the
    /// driver may not notify of.
    ///
    /// # Errors
    ///
    /// The rings cannot be read or written.
    pub fn enable_notification(&mut self, memory: &GuestRam) -> Result<bool, DeviceFault> {
        self.queue.enable_notification(memory).map_err(|e| self.name.broken(&e))
    }

    /// Stops with work left: asks to be notified of the next buffer the driver adds. The library
    /// can only ask for the oldest one not taken, which the driver has announced already.
    ///
    /// # Errors
    ///
    /// The rings cannot be read or written.
    pub fn notify_from_here(&mut self, memory: &GuestRam) -> Result<(), DeviceFault> {
        self.enable_notification(memory)?;
        if !self.queue.event_idx_enabled() {
            return Ok(());
        }
        let broken = |e: virtio_queue::Error| self.name.broken(&e);
        let tail = self.queue.avail_idx(memory, Ordering::Acquire).map_err(broken)?;
        // `avail_event` follows the entries of the used ring (section 2.7.8).
        let event = self.queue.used_ring().saturating_add(4 + 8 * u64::from(self.queue.size()));
        memory
            .store(tail.0.to_le(), GuestAddress(event), Ordering::SeqCst)
            .map_err(|e| self.name.broken(&virtio_queue::Error::GuestMemory(e)))
    }

    /// Whether the driver wants an interrupt for what was used since the last call.
    fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, DeviceFault> {
        if !std::mem::take(&mut self.used) {
            return Ok(false);
        }
        self.queue.needs_notification(memory).map_err(|e| self.name.broken(&e))
    }
}

/// Ends a device's work: one interrupt for all its queues, if the driver wants it for one of them.
/// With `work_left` an interrupt is raised whatever the driver wants: the device goes on when the driver
/// acknowledges it. See [`Virtqueue`] for what this also completes.
///
/// # Errors
///
/// A ring cannot be read, or the interrupt cannot be raised.
pub fn signal<const N: usize>(
    queues: [&mut Virtqueue; N],
    memory: &GuestRam,
    interrupt: &Interrupt,
    work_left: bool,
) -> Result<(), DeviceFault> {
    let mut wanted = work_left;
    let mut device = "virtio";
    for queue in queues {
        device = queue.name.device;
        wanted |= queue.wants_interrupt(memory)?;
    }
    if wanted {
        interrupt.signal_used().map_err(|e| DeviceFault::Host {
            device,
            reason: format!("cannot raise its interrupt: {e}"),
        })?;
    }
    Ok(())
}
