//! Streams for asynchronous programs. No runtime is involved: the guest's notification, or the
//! host call that made progress possible, calls the waker.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::endpoints::Interest;
use super::error::VsockError;
use super::shared::Core;
use super::stream::VsockStream;

/// A [`VsockStream`] that wakes a task instead of blocking a thread.
#[derive(Debug)]
pub struct AsyncVsockStream {
    stream: VsockStream,
}

impl VsockStream {
    /// Makes this stream one for asynchronous use. Its timeouts no longer matter.
    pub fn into_async(self) -> AsyncVsockStream {
        AsyncVsockStream { stream: self }
    }
}

impl AsyncVsockStream {
    /// The port on the host.
    pub fn host_port(&self) -> u32 {
        self.stream.host_port()
    }

    /// The port in the guest.
    pub fn guest_port(&self) -> u32 {
        self.stream.guest_port()
    }

    fn poll(
        &self,
        interest: Interest,
        context: &Context<'_>,
        attempt: impl FnOnce(&mut Core) -> Poll<Result<usize, VsockError>>,
    ) -> Poll<io::Result<usize>> {
        let outcome = self.stream.shared().with_guest(|core| {
            let outcome = attempt(core);
            if outcome.is_pending()
                && let Some(handle) = core.host.handles.get_mut(&self.stream.id())
            {
                handle.register(interest, context.waker());
            }
            outcome
        });
        outcome.map_err(io::Error::from)
    }
}

impl AsyncRead for AsyncVsockStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let data = buffer.initialize_unfilled();
        let read = self.poll(Interest::Read, context, |core| self.stream.try_read(core, data));
        read.map_ok(|count| buffer.advance(count))
    }
}

impl AsyncWrite for AsyncVsockStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(Interest::Write, context, |core| self.stream.try_write(core, data))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(Shutdown::Write))
    }
}
