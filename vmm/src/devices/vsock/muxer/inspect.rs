//! What tests look at.

use std::collections::VecDeque;

use super::{ConnectionPhase, Muxer};

impl Muxer {
    /// Sizes of everything that could grow: connections, known ports, backlogs, lingering, ready,
    /// answers.
    pub fn counts(&self) -> [usize; 6] {
        [
            self.connections.len(),
            self.by_ports.len(),
            self.backlogs.values().map(VecDeque::len).sum(),
            self.lingering.len(),
            self.ready.len(),
            self.pending_rst.len(),
        ]
    }

    /// Continues counting host ports here.
    pub fn set_next_port(&mut self, port: u32) {
        self.next_port = port;
    }

    /// Bytes in all buffers.
    pub fn buffered(&self) -> usize {
        self.connections
            .values()
            .map(|connection| connection.receive.len() + connection.send.len())
            .sum()
    }

    /// Checks that the tables agree with one another.
    pub fn check(&self) {
        for (ports, id) in &self.by_ports {
            assert_eq!(self.connections[id].ports, *ports);
        }
        for (id, connection) in &self.connections {
            let known = self.by_ports.get(&connection.ports) == Some(id);
            assert_eq!(known, !matches!(connection.phase, ConnectionPhase::Closed(_)));
            let turns = self.ready.iter().filter(|other| *other == id).count();
            assert_eq!(turns, usize::from(connection.queued));
            let waits = connection.next(1).is_some() && !connection.queued;
            assert!(!waits, "nobody will send for {connection:?}");
            assert_eq!(self.lingering.contains(id), connection.lingering);
        }
        for id in self.ready.iter().chain(&self.lingering) {
            assert!(self.connections.contains_key(id));
        }
    }
}
