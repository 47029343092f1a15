//! Defences that a run can leave out, so that its probes are seen to fail.

/// Defences of the guest program, by the names that its command line has for them.
pub const GUEST_DEFENCES: [&str; 6] = ["bytes", "filter", "kill", "limits", "mounts", "privileges"];

/// Defences on the host's side. The probes show what a host without one does:
///
/// - `anchors`: believes an audit log that agrees with itself.
/// - `deadline`: waits for longer than it was told.
/// - `digests`: takes an image as it is on disk.
/// - `isolation`: shares a file and a port with its guests.
/// - `journal`: loses its journal when it dies.
/// - `nonces`: loses its nonces when it dies.
/// - `protocol`: believes the first result that a guest sends.
/// - `recovery`: goes on with a machine that has ended.
/// - `reset`: does not reset machines.
/// - `signatures`: checks one text and reads another.
/// - `verification`: compares nothing after a reset.
pub const HOST_DEFENCES: [&str; 11] = [
    "anchors",
    "deadline",
    "digests",
    "isolation",
    "journal",
    "nonces",
    "protocol",
    "recovery",
    "reset",
    "signatures",
    "verification",
];
