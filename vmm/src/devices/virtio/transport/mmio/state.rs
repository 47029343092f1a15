//! Capture and restore of a transport's registers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};

use super::{MmioTransport, Status};
use crate::devices::foreign;
use crate::devices::virtio::{Activation, StateError};

/// Every register of a transport, with the positions of an active device's queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmioState {
    status: Status,
    active: bool,
    accepted: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    interrupt: u32,
    /// As configured.
    #[serde(with = "foreign::queues")]
    queues: Vec<QueueState>,
    /// As far as the device has come; empty if it does not tell.
    #[serde(with = "foreign::queues")]
    positions: Vec<QueueState>,
}

impl MmioState {
    /// Whether a transport can have these registers while its device has `queues`; none before
    /// activation. A state that was read from a file has to pass this.
    pub fn fits(&self, queues: Option<&[QueueState]>) -> bool {
        let agree = match queues {
            Some(queues) => self.active && self.positions == queues,
            None => !self.active && self.positions.is_empty(),
        };
        agree && self.status.is_reachable()
    }
}

impl MmioTransport {
    /// What [`Self::restore`] restores. No vCPU may run. A device that has stopped is in no state
    /// worth going back to.
    ///
    /// # Errors
    ///
    /// The device has stopped.
    pub fn state(&self) -> Result<MmioState, StateError> {
        if self.faults.is_raised() {
            return Err(StateError::Stopped);
        }
        Ok(MmioState {
            status: self.status,
            active: self.active,
            accepted: self.accepted,
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            queue_sel: self.queue_sel,
            interrupt: self.interrupt.status(),
            queues: self.configured(),
            positions: self.device().queue_states(),
        })
    }

    /// Puts every register back and makes the device active, or not, as it was. No vCPU may run.
    ///
    /// A device that is active and was so keeps the queues it has: its own state, restored after
    /// this, replaces them. One that has to be activated, as in a fork, begins where the captured
    /// one stood, so guest RAM has to be back before this, and interrupt controllers after it.
    /// On an error nothing has changed, unless the device itself refused its queues.
    ///
    /// # Errors
    ///
    /// The state has registers or queues that this device cannot have.
    pub fn restore(&mut self, state: &MmioState) -> Result<(), StateError> {
        // All of them or none: what cannot be restored must not change the first ones.
        if !self.could_have(&state.queues) {
            return Err(StateError::Queue);
        }
        if state.active && state.accepted & !self.offered != 0 {
            return Err(StateError::Registers);
        }
        match (state.active, self.active) {
            (true, false) => {
                let queues = self.queues_from(&state.positions)?;
                if !queues.iter().all(|queue| queue.is_valid(&*self.memory)) {
                    return Err(StateError::Queue);
                }
                let activation = Activation {
                    memory: Arc::clone(&self.memory),
                    queues,
                    interrupt: Arc::clone(&self.interrupt),
                    faults: Arc::clone(&self.faults),
                    features: state.accepted,
                };
                self.device().activate(activation).map_err(|_| StateError::Queue)?;
            }
            (false, true) => self.device().reset(),
            (true, true) | (false, false) => {}
        }
        // In place: a reset comes here for each device, and needs no memory.
        for (queue, state) in self.queues.iter_mut().zip(&state.queues) {
            *queue = Queue::try_from(*state).map_err(|_| StateError::Queue)?;
        }
        self.active = state.active;
        self.status = state.status;
        self.accepted = state.accepted;
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.queue_sel = state.queue_sel;
        self.faults.clear();
        // Last: activation may have raised an interrupt.
        self.interrupt.set_status(state.interrupt);
        Ok(())
    }

    /// The queues as the driver configured them.
    pub(super) fn configured(&self) -> Vec<QueueState> {
        self.queues.iter().map(Queue::state).collect()
    }

    /// Whether this device's queues could be in these states.
    fn could_have(&self, states: &[QueueState]) -> bool {
        let fits = |(state, size): (&QueueState, &u16)| {
            state.max_size == *size && Queue::try_from(*state).is_ok()
        };
        states.len() == self.queue_sizes.len() && states.iter().zip(&self.queue_sizes).all(fits)
    }

    /// Queues with these states, if this device could have them.
    fn queues_from(&self, states: &[QueueState]) -> Result<Vec<Queue>, StateError> {
        if !self.could_have(states) {
            return Err(StateError::Queue);
        }
        states.iter().map(|s| Queue::try_from(*s).map_err(|_| StateError::Queue)).collect()
    }
}
