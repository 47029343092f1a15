//! What the agent and the guest program share: messages, framing, the evidence chain, the tool
//! registry, the small tools and the image manifest. The binary beside this library is PID 1 of the guest.

pub mod applets;
pub mod evidence;
pub mod framing;
pub mod manifest;
pub mod output;
pub mod registry;
pub mod wire;
