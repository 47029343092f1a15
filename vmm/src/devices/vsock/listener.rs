//! Host ports the guest can connect to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::VsockError;
use super::shared::Shared;
use super::stream::VsockStream;
use super::wait_queue::WaitQueue;

/// A host port that is listened on until this is dropped; connections not yet accepted are
/// reset then.
pub struct VsockListener {
    shared: Arc<Shared>,
    port: u32,
    id: u64,
    wait_queue: Arc<WaitQueue>,
}

impl VsockListener {
    pub(super) fn new(shared: Arc<Shared>, port: u32, id: u64, wait_queue: Arc<WaitQueue>) -> Self {
        Self { shared, port, id, wait_queue }
    }

    /// The port.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// The next connection the guest opens; waits for ever without a timeout. The guest may have
    /// closed it again already: what it sent can still be read.
    ///
    /// # Errors
    ///
    /// [`VsockError::MachineStopped`] when the machine is over, [`VsockError::TimedOut`] when no connection
    /// came within `timeout`.
    pub fn accept(&self, timeout: Option<Duration>) -> Result<VsockStream, VsockError> {
        self.shared
            .block(
                &self.wait_queue,
                |_| timeout,
                |core| {
                    if let Err(error) = core.check() {
                        return Some(Err(error));
                    }
                    let (id, ports) = core.muxer.next_accepted(self.port)?;
                    let wait_queue = core.host.open(id);
                    let shared = Arc::clone(&self.shared);
                    Some(Ok(VsockStream::new(shared, id, ports, wait_queue)))
                },
            )
            .unwrap_or(Err(VsockError::TimedOut))
    }
}

impl Drop for VsockListener {
    fn drop(&mut self) {
        self.shared.with_guest(|core| {
            let ours = |listening: &super::endpoints::Listening| listening.id == self.id;
            if core.host.listeners.get(&self.port).is_some_and(ours) {
                core.host.listeners.remove(&self.port);
                core.muxer.drop_backlog(self.port, &mut core.host);
            }
        });
    }
}

impl fmt::Debug for VsockListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VsockListener").field("port", &self.port).finish_non_exhaustive()
    }
}
