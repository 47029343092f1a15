//! The host's side of a machine's vsock device.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{BUFFER_BYTES, ConnectionPhase, Ending, Ports};
use super::counters::VsockCounters;
use super::endpoints::Listening;
use super::error::VsockError;
use super::limits::{BACKLOG, MAX_CONNECTIONS};
use super::listener::VsockListener;
use super::shared::Shared;
use super::stream::VsockStream;

/// Opens connections to a guest and accepts those it opens. Clones are the same host.
#[derive(Clone)]
pub struct VsockHost {
    pub(super) shared: Arc<Shared>,
}

impl VsockHost {
    /// Most connections of one machine, closed ones included that a stream still holds.
    pub const MAX_CONNECTIONS: usize = MAX_CONNECTIONS;
    /// Most connections that wait on one host port to be accepted.
    pub const BACKLOG: usize = BACKLOG;
    /// Bytes that one direction of a connection holds while its reader does not read.
    pub const BUFFER_BYTES: usize = BUFFER_BYTES as usize;

    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Connects to a port of the guest. Works before the guest has booted; the guest then finds
    /// the request when its driver starts.
    ///
    /// # Errors
    ///
    /// [`VsockError::MachineStopped`] when the machine is over, [`VsockError::TooMany`] when it has as many
    /// connections as it may, [`VsockError::Refused`] when the guest does not listen on that port,
    /// [`VsockError::TimedOut`] when it did not answer within `timeout`, and [`VsockError::Gone`] when the
    /// machine was reset meanwhile.
    pub fn connect(&self, guest_port: u32, timeout: Duration) -> Result<VsockStream, VsockError> {
        let stream = self.shared.with(|core| {
            core.check()?;
            let (id, ports) = core.muxer.connect(guest_port, &mut core.host)?;
            let wait_queue = core.host.open(id);
            Ok(VsockStream::new(Arc::clone(&self.shared), id, ports, wait_queue))
        })?;
        // On every error below, dropping the stream takes the request back.
        let id = stream.id();
        self.shared
            .block(
                stream.wait_queue(),
                |_| Some(timeout),
                |core| {
                    if let Err(error) = core.check() {
                        return Some(Err(error));
                    }
                    match core.muxer.get(id).map(|connection| connection.phase) {
                        None => Some(Err(VsockError::Gone)),
                        Some(ConnectionPhase::Connecting) => None,
                        Some(ConnectionPhase::Closed(Ending::Refused)) => {
                            Some(Err(VsockError::Refused(guest_port)))
                        }
                        // The guest may have closed it again already; it may also have sent.
                        Some(ConnectionPhase::Established | ConnectionPhase::Closed(_)) => {
                            Some(Ok(()))
                        }
                    }
                },
            )
            .unwrap_or(Err(VsockError::TimedOut))?;
        Ok(stream)
    }

    /// Listens on a host port. Connections the guest opens wait there, at most
    /// [`VsockHost::BACKLOG`] of them; on every other port the guest is refused.
    ///
    /// # Errors
    ///
    /// [`VsockError::MachineStopped`] when the machine is over, [`VsockError::PortInUse`] when the port has
    /// a listener.
    pub fn listen(&self, host_port: u32) -> Result<VsockListener, VsockError> {
        self.shared.with(|core| {
            core.check()?;
            if core.host.listeners.contains_key(&host_port) {
                return Err(VsockError::PortInUse(host_port));
            }
            let id = core.host.fresh_id();
            let wait_queue = Arc::default();
            let listening = Listening { id, wait_queue: Arc::clone(&wait_queue) };
            core.host.listeners.insert(host_port, listening);
            let shared = Arc::clone(&self.shared);
            Ok(VsockListener::new(shared, host_port, id, wait_queue))
        })
    }

    /// A stream for a connection that exists already: after a restore brought back a connection
    /// whose streams were dropped, or in a machine that was made from another one's state.
    ///
    /// # Errors
    ///
    /// [`VsockError::MachineStopped`] when the machine is over, [`VsockError::Gone`] when it has no such
    /// connection.
    pub fn reattach(&self, guest_port: u32, host_port: u32) -> Result<VsockStream, VsockError> {
        let ports = Ports { guest: guest_port, host: host_port };
        self.shared.with(|core| {
            core.check()?;
            let id = core.muxer.find(ports).ok_or(VsockError::Gone)?;
            let wait_queue = core.host.open(id);
            Ok(VsockStream::new(Arc::clone(&self.shared), id, ports, wait_queue))
        })
    }

    /// Makes every stream, listener and pending call fail at once with
    /// [`VsockError::MachineStopped`], and lets go of the guest's memory. The first reason stays.
    pub(crate) fn close_all(&self, reason: &str) {
        self.shared.with(|core| core.stop(reason));
    }

    /// Tells the guest that all its connections are lost (section 5.10.6.7), and ends the host's
    /// half of them. For a guest whose other half came from somewhere else.
    pub fn send_transport_reset(&self) {
        self.shared.with_guest(|core| {
            core.muxer.forget_guest(&mut core.host);
            core.muxer.reset_event_due = true;
            // The guest's packets before the event still have to be taken off the queue.
            core.muxer.transmit_waiting = true;
        });
    }

    /// What the guest has done so far.
    pub fn counters(&self) -> VsockCounters {
        self.shared.with(|core| core.host.counters)
    }
}

impl fmt::Debug for VsockHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VsockHost").finish_non_exhaustive()
    }
}
