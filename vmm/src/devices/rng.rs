//! virtio entropy device (virtio 1.2, section 5.4): random bytes from the host's kernel.

mod device;
mod queue;
mod state;

pub use device::Rng;
pub use state::RngState;

#[cfg(test)]
mod tests;
