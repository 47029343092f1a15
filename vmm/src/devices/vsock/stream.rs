//! A connection as the host's program holds it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use super::connection::{ConnectionId, Ports};
use super::endpoints::Handle;
use super::error::VsockError;
use super::packet::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::shared::{Core, Shared};
use super::wait_queue::WaitQueue;

/// A connection between this process and a guest program.
///
/// Reads and writes block, also through a shared reference and from several threads at once. When
/// the last clone is dropped, what was written is still delivered and then the connection ends.
pub struct VsockStream {
    shared: Arc<Shared>,
    id: ConnectionId,
    ports: Ports,
    wait_queue: Arc<WaitQueue>,
    /// Number of the epoch, from 1 on, in which a write left a rest that its caller will try again to
    /// write; 0 for none.
    unfinished: AtomicU64,
}

impl VsockStream {
    /// Takes over one count of the handle's streams.
    pub(super) fn new(
        shared: Arc<Shared>,
        id: ConnectionId,
        ports: Ports,
        wait_queue: Arc<WaitQueue>,
    ) -> Self {
        Self { shared, id, ports, wait_queue, unfinished: AtomicU64::new(0) }
    }

    pub(super) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(super) fn wait_queue(&self) -> &WaitQueue {
        &self.wait_queue
    }

    #[cfg(feature = "tokio")]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The port on the host.
    pub fn host_port(&self) -> u32 {
        self.ports.host
    }

    /// The port in the guest.
    pub fn guest_port(&self) -> u32 {
        self.ports.guest
    }

    /// Limits every later blocking read of all clones; `None` waits for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.with_handle(|handle| handle.read_timeout = timeout);
    }

    /// Limits every later blocking write of all clones; `None` waits for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.with_handle(|handle| handle.write_timeout = timeout);
    }

    /// Another stream for the same connection.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the machine is over; [`VsockError`] is inside.
    pub fn try_clone(&self) -> io::Result<Self> {
        let wait_queue = self.shared.with(|core| {
            core.check()?;
            Ok::<_, VsockError>(core.host.open(self.id))
        })?;
        Ok(Self::new(Arc::clone(&self.shared), self.id, self.ports, wait_queue))
    }

    /// Closes one or both directions for all clones. What was written before is still delivered;
    /// what arrives after closing the read side is thrown away.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the machine is over, or was reset to a state without this connection;
    /// [`VsockError`] is inside.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let flags = match how {
            Shutdown::Read => SHUTDOWN_RECEIVE,
            Shutdown::Write => SHUTDOWN_SEND,
            Shutdown::Both => SHUTDOWN_BOTH,
        };
        self.shared.with_guest(|core| {
            core.check()?;
            Ok(core.muxer.shutdown(self.id, flags, &mut core.host)?)
        })
    }

    /// A read that does not wait.
    pub(super) fn try_read(
        &self,
        core: &mut Core,
        data: &mut [u8],
    ) -> Poll<Result<usize, VsockError>> {
        if let Err(error) = core.check() {
            return Poll::Ready(Err(error));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        core.muxer.read(self.id, data)
    }

    /// A write that does not wait. The rest of what was begun before the machine went back to a
    /// captured state is not written: the caller is told so once.
    pub(super) fn try_write(
        &self,
        core: &mut Core,
        data: &[u8],
    ) -> Poll<Result<usize, VsockError>> {
        if let Err(error) = core.check() {
            return Poll::Ready(Err(error));
        }
        let now = core.epoch.saturating_add(1);
        let begun = self.unfinished.swap(0, Ordering::Relaxed);
        if begun != 0 && begun != now {
            return Poll::Ready(Err(VsockError::Gone));
        }
        let result = core.muxer.write(self.id, data);
        let is_whole = matches!(result, Poll::Ready(Ok(count)) if count == data.len());
        if !is_whole && !matches!(result, Poll::Ready(Err(_))) {
            self.unfinished.store(now, Ordering::Relaxed);
        }
        result
    }

    /// Forgets what a write left: its caller was told that the time is up.
    fn give_up(&self) {
        self.unfinished.store(0, Ordering::Relaxed);
    }

    fn block(
        &self,
        limit: impl FnOnce(&Handle) -> Option<Duration>,
        mut attempt: impl FnMut(&mut Core) -> Poll<Result<usize, VsockError>>,
    ) -> io::Result<usize> {
        let done = self.shared.block(
            &self.wait_queue,
            |core| core.host.handles.get(&self.id).and_then(limit),
            |core| match attempt(core) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            },
        );
        if done.is_none() {
            self.give_up();
        }
        Ok(done.unwrap_or(Err(VsockError::TimedOut))?)
    }

    fn with_handle(&self, change: impl FnOnce(&mut Handle)) {
        self.shared.with(|core| {
            if let Some(handle) = core.host.handles.get_mut(&self.id) {
                change(handle);
            }
        });
    }
}

impl Read for &VsockStream {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        self.block(|h| h.read_timeout, |core| self.try_read(core, data))
    }
}

impl Write for &VsockStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // Several threads may write: each has begun when it did.
        let mut begun = None;
        self.block(
            |h| h.write_timeout,
            |core| {
                if *begun.get_or_insert(core.epoch) != core.epoch {
                    return Poll::Ready(Err(VsockError::Gone));
                }
                self.try_write(core, data)
            },
        )
    }

    /// Nothing to do: a write goes as far as the guest lets it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for VsockStream {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        (&*self).read(data)
    }
}

impl Write for VsockStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&*self).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for VsockStream {
    fn drop(&mut self) {
        self.shared.with_guest(|core| {
            if core.host.close(self.id) {
                core.muxer.release(self.id, &mut core.host);
            }
        });
    }
}

impl fmt::Debug for VsockStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VsockStream")
            .field("host_port", &self.ports.host)
            .field("guest_port", &self.ports.guest)
            .finish_non_exhaustive()
    }
}
