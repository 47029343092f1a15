//! Forms for files of states whose types belong to other crates. Their fields are listed here one
//! by one, so that a field a new version adds does not compile instead of going missing.

use serde::{Deserialize, Serialize};
use virtio_queue::QueueState;
use vm_superio::SerialState;

/// One virtqueue.
#[derive(Serialize, Deserialize)]
#[serde(remote = "QueueState")]
pub struct QueueForm {
    max_size: u16,
    next_avail: u16,
    next_used: u16,
    event_idx_enabled: bool,
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

/// The serial port.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SerialState")]
pub struct SerialForm {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

/// A queue inside a container.
#[derive(Serialize, Deserialize)]
struct Held(#[serde(with = "QueueForm")] QueueState);

/// Any number of queues.
pub mod queues {
    use serde::{Deserialize, Deserializer, Serializer};
    use virtio_queue::QueueState;

    use super::Held;

    /// Writes them.
    pub fn serialize<S: Serializer>(states: &[QueueState], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(states.iter().copied().map(Held))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<QueueState>, D::Error> {
        let held = Vec::<Held>::deserialize(from)?;
        Ok(held.into_iter().map(|Held(state)| state).collect())
    }
}

/// Three queues, or none.
pub mod three_queues {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use virtio_queue::QueueState;

    use super::Held;

    /// Writes them.
    #[expect(clippy::ref_option, reason = "this is how derived code calls it")]
    pub fn serialize<S: Serializer>(
        states: &Option<[QueueState; 3]>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        states.map(|states| states.map(Held)).serialize(to)
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<[QueueState; 3]>, D::Error> {
        let held = Option::<[Held; 3]>::deserialize(from)?;
        Ok(held.map(|held| held.map(|Held(state)| state)))
    }
}
