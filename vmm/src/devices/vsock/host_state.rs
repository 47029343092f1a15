//! The state behind a host's handle, for tests and fuzz targets that have a device and no machine.

use super::error::VsockError;
use super::host::VsockHost;
#[cfg(test)]
use super::shared::Shared;
use super::state::VsockState;

impl VsockHost {
    /// On return no thread touches guest memory for this device until [`VsockHost::resume`].
    /// Streams go on working on their buffers.
    pub fn quiesce(&self) {
        self.shared.with(|core| core.held = true);
    }

    /// Undoes [`VsockHost::quiesce`] and moves what has gathered since.
    pub fn resume(&self) {
        self.shared.with_guest(|core| core.held = false);
    }

    /// The host's half of every connection, and the positions of the queues. The machine must be
    /// paused and the device quiesced, and no call of [`VsockHost::connect`] under way.
    pub fn capture(&self) -> VsockState {
        self.shared.with(|core| VsockState::capture(core))
    }

    /// Goes back to a captured state, together with guest memory. Streams of connections in that
    /// state go on from there; all others fail with [`VsockError::Gone`]. Listeners stay as they
    /// are. The machine must be paused and the device quiesced.
    ///
    /// # Errors
    ///
    /// The machine is over, the device is not active and the state has queues, or the queues are
    /// impossible.
    pub fn restore(&self, state: &VsockState) -> Result<(), VsockError> {
        self.shared.with(|core| state.restore(core))
    }

    /// Connections, and bytes in their buffers.
    pub fn size(&self) -> (usize, usize) {
        self.shared.with(|core| core.muxer.size())
    }

    /// Whether all that is kept of connections agrees, as [`VsockState::is_sound`] wants it.
    pub fn is_sound(&self, guest_cid: u64) -> bool {
        self.shared.with(|core| core.muxer.is_sound(guest_cid))
    }

    #[cfg(test)]
    pub(super) fn shared_for_test(&self) -> &Shared {
        &self.shared
    }
}
