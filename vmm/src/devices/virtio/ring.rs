//! Working through a virtqueue without trusting it.

use std::sync::atomic::Ordering;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{DeviceFault, Interrupt};
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

    /// A chain that leaves nobody to answer.
    pub fn bad_chain(self, reason: String) -> DeviceFault {
        DeviceFault::BadChain { device: self.device, queue: self.queue, reason }
    }
}

/// The next chain, whose head is inside the table.
pub fn pop<'m>(
    queue: &mut Queue,
    memory: &'m GuestRam,
    name: QueueName,
) -> Result<Option<DescriptorChain<&'m GuestRam>>, DeviceFault> {
    let chain = queue.iter(memory).map_err(|e| name.broken(&e))?.next();
    match chain {
        Some(chain) if chain.head_index() >= queue.size() => Err(name.broken_because(format!(
            "descriptor {} in a table of {}",
            chain.head_index(),
            queue.size()
        ))),
        other => Ok(other),
    }
}

/// Stops with work left: asks to be notified of the next buffer the driver adds. The library can
/// only ask for the oldest one not taken, which the driver has announced already.
pub fn notify_from_here(
    queue: &mut Queue,
    memory: &GuestRam,
    name: QueueName,
) -> Result<(), DeviceFault> {
    queue.enable_notification(memory).map_err(|e| name.broken(&e))?;
    if !queue.event_idx_enabled() {
        return Ok(());
    }
    let tail = queue.avail_idx(memory, Ordering::Acquire).map_err(|e| name.broken(&e))?;
    // `avail_event` follows the ring of the used ring (section 2.7.8).
    let event = queue.used_ring().saturating_add(4 + 8 * u64::from(queue.size()));
    memory
        .store(tail.0.to_le(), GuestAddress(event), Ordering::SeqCst)
        .map_err(|e| name.broken(&virtio_queue::Error::GuestMemory(e)))
}

/// Answers every request in the queue with `answer`, which returns the bytes it wrote, then raises
/// one interrupt if the driver wants it.
///
/// A driver cannot have more requests in flight than the queue is long, and sees none completed
/// before the interrupt. Only a driver that refills the ring while it is emptied meets the bound
/// of twice that many; without it, such a guest could keep its vCPU thread here for ever.
pub fn drain(
    queue: &mut Queue,
    memory: &GuestRam,
    interrupt: &Interrupt,
    name: QueueName,
    mut answer: impl FnMut(DescriptorChain<&GuestRam>) -> Result<u32, DeviceFault>,
) -> Result<(), DeviceFault> {
    let mut budget = 2 * u32::from(queue.size());
    let mut used = false;
    'queue: loop {
        queue.disable_notification(memory).map_err(|e| name.broken(&e))?;
        while let Some(chain) = pop(queue, memory, name)? {
            let head = chain.head_index();
            let written = answer(chain)?;
            queue.add_used(memory, head, written).map_err(|e| name.broken(&e))?;
            used = true;
            budget = budget.saturating_sub(1);
            if budget == 0 {
                notify_from_here(queue, memory, name)?;
                break 'queue;
            }
        }
        if !queue.enable_notification(memory).map_err(|e| name.broken(&e))? {
            break;
        }
    }
    // Asking also brings `num_added` back to zero: between notifications the queue's state is
    // complete without it.
    if used && queue.needs_notification(memory).map_err(|e| name.broken(&e))? {
        interrupt.signal_used().map_err(|e| DeviceFault::Host {
            device: name.device,
            reason: format!("cannot raise its interrupt: {e}"),
        })?;
    }
    Ok(())
}
