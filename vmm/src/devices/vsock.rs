//! virtio socket device (virtio 1.2, section 5.10) whose host side is this process.
//!
//! There is no host socket, no file and no thread behind it. One mutex per machine guards the
//! queues, the connections and the host's buffers. A notification from the guest is handled on
//! the vCPU thread that made it; a host call works on the caller's thread down to the guest's
//! buffers and the interrupt.
//!
//! What the guest can break, and what happens then:
//!
//! - a ring or chain that makes no sense (a loop, a descriptor outside RAM or of the wrong
//!   direction, fewer bytes than a header, a payload longer than its chain) is a
//!   [`DeviceFault`](super::virtio::DeviceFault): the driver is broken and a stream could have
//!   lost bytes unnoticed;
//! - a well-formed packet that breaks the protocol (unknown type or operation, no such
//!   connection, no credit, no listener) is answered with RST and counted;
//! - a packet that claims another source than the guest is dropped and counted.
//!
//! Memory is bounded: [`VsockHost::MAX_CONNECTIONS`] connections with two buffers of
//! [`VsockHost::BUFFER_BYTES`] each,
//! and a bounded queue of RST packets. While that queue is full, the device takes no more packets
//! from the guest until the guest has taken RST packets. Work per notification is bounded too.

mod connection;
mod counters;
mod device;
mod endpoints;
mod error;
mod host;
#[cfg(any(test, feature = "fuzzing"))]
mod host_state;
mod limits;
mod listener;
mod muxer;
mod packet;
mod queue;
mod shared;
mod state;
mod stream;
#[cfg(feature = "tokio")]
mod stream_async;
mod wait_queue;

#[cfg(test)]
mod tests;

pub use counters::VsockCounters;
pub use device::VsockDevice;
pub use error::VsockError;
pub use host::VsockHost;
pub use limits::MIN_GUEST_CID;
pub use listener::VsockListener;
#[cfg(feature = "fuzzing")]
pub use state::VsockState;
pub use stream::VsockStream;
#[cfg(feature = "tokio")]
pub use stream_async::AsyncVsockStream;
