//! The version of the snapshot format.

/// Version of the snapshot format. It goes up when the frame of a file or its header changes. Each
/// section, and each device in its section, has a version of its own.
pub const VERSION: u32 = 3;
