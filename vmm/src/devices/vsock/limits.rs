//! How much one machine's socket device holds.

/// CIDs below this one are reserved (virtio 1.2, section 5.10.4).
pub const MIN_GUEST_CID: u32 = 3;
/// Most connections of one machine, closed ones included that a handle still holds.
pub const MAX_CONNECTIONS: usize = 1024;
/// Most connections the guest may open on one host port before they are accepted.
pub const BACKLOG: usize = 64;
/// Most connections without a handle that wait for the guest to take their last bytes and let go.
pub const MAX_LINGERING: usize = 256;
/// RST packets that may wait for guest buffers before the device stops taking packets.
pub const MAX_PENDING_RST: usize = 256;
