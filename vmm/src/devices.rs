//! Device models. All input here comes from the guest and is treated as hostile.

pub mod virtio;
