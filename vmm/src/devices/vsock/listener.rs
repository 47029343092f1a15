//! Host ports the guest can connect to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::VsockError;
use super::registry::Bell;
use super::shared::Shared;
use super::stream::VsockStream;

/// A host port that is listened on until this is dropped; connections nobody has accepted are
/// reset then.
pub struct VsockListener {
    shared: Arc<Shared>,
    port: u32,
    id: u64,
    bell: Arc<Bell>,
}

impl VsockListener {
    pub(super) fn new(shared: Arc<Shared>, port: u32, id: u64, bell: Arc<Bell>) -> Self {
        Self { shared, port, id, bell }
    }

    /// The port.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// The next connection the guest opens; waits for ever without a timeout. The guest may have
    /// closed it again already: what it sent can still be read.
    pub fn accept(&self, timeout: Option<Duration>) -> Result<VsockStream, VsockError> {
        self.shared
            .block(
                &self.bell,
                |_| timeout,
                |core| {
                    if let Err(error) = core.check() {
                        return Some(Err(error));
                    }
                    let (id, ports) = core.muxer.next_accepted(self.port)?;
                    let bell = core.registry.open(id);
                    let shared = Arc::clone(&self.shared);
                    Some(Ok(VsockStream::new(shared, id, ports, bell)))
                },
            )
            .unwrap_or(Err(VsockError::TimedOut))
    }
}

impl Drop for VsockListener {
    fn drop(&mut self) {
        self.shared.with_guest(|core| {
            let ours = |listening: &super::registry::Listening| listening.id == self.id;
            if core.registry.listeners.get(&self.port).is_some_and(ours) {
                core.registry.listeners.remove(&self.port);
                core.muxer.drop_backlog(self.port, &mut core.registry);
            }
        });
    }
}

impl fmt::Debug for VsockListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VsockListener").field("port", &self.port).finish_non_exhaustive()
    }
}
