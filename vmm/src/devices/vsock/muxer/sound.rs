//! Tables that come from a file, whose writer is unknown.

use std::collections::{BTreeSet, VecDeque};

use super::{ConnectionPhase, Muxer};
use crate::devices::vsock::connection::{BUFFER_BYTES, ConnectionId};
use crate::devices::vsock::limits::{BACKLOG, MAX_CONNECTIONS, MAX_LINGERING, MAX_PENDING_RST};

/// Numbers of connections go up by one each; no machine gets this far.
const LAST_ID: u64 = u64::MAX / 2;

impl Muxer {
    /// Whether the tables agree with one another and keep within every limit.
    pub fn is_sound(&self, guest_cid: u64) -> bool {
        self.guest_cid == guest_cid
            && self.connections.len() <= MAX_CONNECTIONS
            && self.lingering.len() <= MAX_LINGERING
            && self.pending_rst.len() <= MAX_PENDING_RST + MAX_CONNECTIONS
            && self.backlogs.values().all(|backlog| backlog.len() <= BACKLOG)
            && self.connections_are_sound()
            && self.is_list_of(&self.ready, |connection| connection.queued)
            && self.is_list_of(&self.lingering, |connection| connection.lingering)
    }

    /// Number of connections, and bytes in all their buffers.
    pub fn size(&self) -> (usize, usize) {
        let bytes = self.connections.values().map(|one| one.receive.len() + one.send.len()).sum();
        (self.connections.len(), bytes)
    }

    fn connections_are_sound(&self) -> bool {
        let mut known = 0;
        let each = self.connections.iter().all(|(id, connection)| {
            let open = !matches!(connection.phase, ConnectionPhase::Closed(_));
            known += usize::from(open);
            let most = BUFFER_BYTES as usize;
            id.0 <= LAST_ID
                && connection.receive.len() <= most
                && connection.send.len() <= most
                && open == (self.by_ports.get(&connection.ports) == Some(id))
        });
        each && known == self.by_ports.len()
    }

    /// Whether `list` names exactly the connections that say they are on it, each once.
    fn is_list_of(
        &self,
        list: &VecDeque<ConnectionId>,
        says: impl Fn(&super::Connection) -> bool,
    ) -> bool {
        let listed: BTreeSet<_> = list.iter().copied().collect();
        listed.len() == list.len()
            && self.connections.iter().all(|(id, one)| says(one) == listed.contains(id))
            && listed.iter().all(|id| self.connections.contains_key(id))
    }
}
