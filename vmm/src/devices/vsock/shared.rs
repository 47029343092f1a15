//! The one lock of a machine's vsock device, and what it guards.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use virtio_queue::QueueState;

use super::endpoints::HostEndpoints;
use super::error::VsockError;
use super::muxer::Muxer;
use super::queue::{self, Active};
use super::wait_queue::WaitQueue;
use crate::devices::virtio::virtqueue::Virtqueue;
use crate::devices::virtio::{DeviceFault, FaultLatch};

/// Everything about one machine's vsock device.
pub struct Core {
    pub muxer: Muxer,
    pub host: HostEndpoints,
    pub active: Option<Active>,
    /// While set, guest memory is left alone: the machine is paused or being reset.
    pub held: bool,
    /// How often the device went back to a captured state. A message that was begun before does not
    /// go on afterwards.
    pub epoch: u64,
    stopped: Option<Arc<str>>,
    /// A fault met on a host thread; the vCPU threads' faults go through the transport.
    fault: Option<(Arc<FaultLatch>, DeviceFault)>,
}

impl Core {
    /// An error once the machine is over.
    pub fn check(&self) -> Result<(), VsockError> {
        match &self.stopped {
            Some(reason) => Err(VsockError::MachineStopped(Arc::clone(reason))),
            None => Ok(()),
        }
    }

    /// Ends everything. Only the first reason counts.
    pub fn stop(&mut self, reason: &str) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(reason.into());
        // Also gives back the guest's memory.
        self.active = None;
        self.muxer.clear();
        self.host.wake_all();
    }

    /// Moves whatever can be moved between the host's buffers and the guest.
    pub fn service(&mut self) -> Result<(), DeviceFault> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if self.held || active.faults.is_raised() {
            return Ok(());
        }
        queue::service(active, &mut self.muxer, &mut self.host)
    }

    /// Positions of the receive, transmit and event queue; `None` before activation.
    pub fn queue_states(&self) -> Option<[QueueState; 3]> {
        self.active
            .as_ref()
            .map(|active| [&active.receive, &active.transmit, &active.event].map(Virtqueue::state))
    }

    /// [`Core::service`] for host threads, which have no transport to report a fault to.
    fn service_for_host(&mut self) {
        if let Err(fault) = self.service() {
            let latch = self.active.as_ref().map(|a| Arc::clone(&a.faults));
            self.stop(&fault.to_string());
            self.fault = latch.map(|latch| (latch, fault));
        }
    }

    fn wakeups(&mut self) -> Wakeups {
        Wakeups { wakers: std::mem::take(&mut self.host.due_wakers), fault: self.fault.take() }
    }
}

/// Calls into code that is not ours, to be made without the lock.
struct Wakeups {
    wakers: Vec<Waker>,
    fault: Option<(Arc<FaultLatch>, DeviceFault)>,
}

impl Wakeups {
    fn is_empty(&self) -> bool {
        self.wakers.is_empty() && self.fault.is_none()
    }

    fn deliver(self) {
        if let Some((latch, fault)) = self.fault {
            latch.raise(&fault);
        }
        for waker in self.wakers {
            waker.wake();
        }
    }
}

/// A [`Core`] behind its lock.
pub struct Shared {
    core: Mutex<Core>,
}

impl Shared {
    /// A device that no driver has activated.
    pub fn new(guest_cid: u64) -> Self {
        Self {
            core: Mutex::new(Core {
                muxer: Muxer::new(guest_cid),
                host: HostEndpoints::default(),
                active: None,
                held: false,
                epoch: 0,
                stopped: None,
                fault: None,
            }),
        }
    }

    /// The lock. A panic of another thread leaves consistent enough data for the machine to be
    /// stopped, which is what follows it.
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the core without touching the guest.
    pub fn with<R>(&self, work: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.lock();
        let result = work(&mut core);
        let wakeups = core.wakeups();
        drop(core);
        wakeups.deliver();
        result
    }

    /// Works on the core, then passes the result on to the guest.
    pub fn with_guest<R>(&self, work: impl FnOnce(&mut Core) -> R) -> R {
        self.with(|core| {
            let result = work(core);
            core.service_for_host();
            result
        })
    }

    /// Repeats `attempt` each time `wait_queue` is woken, until it has a result. `None` once the limit has
    /// passed. `limit` is only asked for when there is something to wait for.
    pub fn block<R>(
        &self,
        wait_queue: &WaitQueue,
        limit: impl FnOnce(&Core) -> Option<Duration>,
        mut attempt: impl FnMut(&mut Core) -> Option<R>,
    ) -> Option<R> {
        let mut limit = Some(limit);
        let mut deadline = None;
        let mut core = self.lock();
        loop {
            let outcome = attempt(&mut core);
            core.service_for_host();
            let wakeups = core.wakeups();
            if !wakeups.is_empty() {
                drop(core);
                wakeups.deliver();
                if outcome.is_some() {
                    return outcome;
                }
                core = self.lock();
                continue;
            }
            if outcome.is_some() {
                return outcome;
            }
            if let Some(limit) = limit.take() {
                deadline = limit(&core).and_then(|limit| Instant::now().checked_add(limit));
            }
            let left = match deadline {
                None => None,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    Some(left)
                }
            };
            core = wait_queue.wait(core, left);
        }
    }
}
