//! What the guest has done to the device, for audits.

/// Counts since the machine was created. They record history, so a restored state does not take
/// them back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VsockCounters {
    /// Packets taken from the guest.
    pub packets_from_guest: u64,
    /// Packets given to the guest.
    pub packets_to_guest: u64,
    /// Payload bytes taken from the guest.
    pub bytes_from_guest: u64,
    /// Payload bytes given to the guest.
    pub bytes_to_guest: u64,
    /// Guest connections refused because the port has no listener.
    pub refused_no_listener: u64,
    /// Guest connections refused because the listener's backlog was full.
    pub refused_backlog_full: u64,
    /// Guest connections refused because the device holds as many as it may.
    pub refused_limit: u64,
    /// Packets for a CID that is not the host's; answered with a reset.
    pub wrong_destination: u64,
    /// Packets from a CID that is not the guest's; dropped.
    pub spoofed_source: u64,
    /// Packets of an unknown socket type; answered with a reset.
    pub unknown_type: u64,
    /// Packets with an unknown operation; answered with a reset.
    pub unknown_operation: u64,
    /// Packets for a connection that does not exist; answered with a reset.
    pub unknown_connection: u64,
    /// Connections reset because the guest sent more than it was allowed to.
    pub credit_violations: u64,
    /// Connections reset because a packet did not fit their state.
    pub protocol_violations: u64,
    /// Connections reset because too many closed ones waited for the guest to let go.
    pub linger_evictions: u64,
}
