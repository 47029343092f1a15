//! All connections of one machine: which packet belongs to which, and who may send next.

#[cfg(test)]
mod inspect;
mod receive;
mod send;
mod sound;

use std::collections::{BTreeMap, VecDeque};
use std::task::Poll;

use serde::{Deserialize, Serialize};

use super::connection::{Connection, ConnectionId, ConnectionPhase, Ending, Ports};
use super::endpoints::HostEndpoints;
use super::error::VsockError;
use super::limits::{MAX_CONNECTIONS, MAX_LINGERING, MAX_PENDING_RST};
use super::packet::{HOST_CID, Op, PacketHeader, SHUTDOWN_BOTH, TYPE_STREAM};

pub use send::PacketSource;

/// First host port of connections the host opens.
const FIRST_EPHEMERAL: u32 = 1 << 30;
/// Last host port of such connections: the number after it means "any".
const LAST_EPHEMERAL: u32 = u32::MAX - 1;

/// The host's half of every connection. Plain data: a clone of it is a captured state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Muxer {
    guest_cid: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    /// The connections the guest knows.
    by_ports: BTreeMap<Ports, ConnectionId>,
    /// Not yet accepted, by host port.
    backlogs: BTreeMap<u32, VecDeque<ConnectionId>>,
    /// Oldest first.
    lingering: VecDeque<ConnectionId>,
    /// Connections with something to send, in turn.
    ready: VecDeque<ConnectionId>,
    /// Resets that belong to no connection any more.
    pending_rst: VecDeque<PacketHeader>,
    rst_first: bool,
    next_port: u32,
    /// Packets from the guest may be waiting in the transmit queue.
    pub transmit_waiting: bool,
    /// A transport reset event is owed.
    pub reset_event_due: bool,
}

impl Muxer {
    /// Ports of the connections that are open, the guest's first.
    pub fn open_ports(&self) -> Vec<(u32, u32)> {
        self.connections
            .values()
            .filter(|connection| connection.phase == ConnectionPhase::Established)
            .map(|connection| (connection.ports.guest, connection.ports.host))
            .collect()
    }

    /// No connections.
    pub fn new(guest_cid: u64) -> Self {
        Self {
            guest_cid,
            connections: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            backlogs: BTreeMap::new(),
            lingering: VecDeque::new(),
            ready: VecDeque::new(),
            pending_rst: VecDeque::new(),
            rst_first: false,
            next_port: FIRST_EPHEMERAL,
            transmit_waiting: false,
            reset_event_due: false,
        }
    }

    /// True while another packet from the guest can be answered.
    pub fn can_receive(&self) -> bool {
        self.pending_rst.len() < MAX_PENDING_RST
    }

    /// A connection.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// A connection.
    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// The connection the guest knows by these ports.
    pub fn find(&self, ports: Ports) -> Option<ConnectionId> {
        self.by_ports.get(&ports).copied()
    }

    /// The highest number given to a connection.
    pub fn last_id(&self) -> Option<ConnectionId> {
        self.connections.keys().next_back().copied()
    }

    /// The next connection on a host port that is not accepted yet.
    pub fn next_accepted(&mut self, port: u32) -> Option<(ConnectionId, Ports)> {
        let backlog = self.backlogs.get_mut(&port)?;
        loop {
            let id = backlog.pop_front()?;
            if let Some(connection) = self.connections.get(&id) {
                return Some((id, connection.ports));
            }
        }
    }

    /// Resets connections that will not be accepted.
    pub fn drop_backlog(&mut self, port: u32, host: &mut HostEndpoints) {
        for id in self.backlogs.remove(&port).into_iter().flatten() {
            if host.handles.contains_key(&id) {
                continue;
            }
            self.abort(id, host);
            self.remove(id);
        }
    }

    /// Host ports with connections that are not accepted yet.
    pub fn backlog_ports(&self) -> Vec<u32> {
        self.backlogs.keys().copied().collect()
    }

    /// Starts a connection to a guest port.
    pub fn connect(
        &mut self,
        guest_port: u32,
        host: &mut HostEndpoints,
    ) -> Result<(ConnectionId, Ports), VsockError> {
        if !self.make_room(host) {
            return Err(VsockError::TooMany);
        }
        // There are more ports than connections and listeners, so one of these is free.
        for _ in 0..=(MAX_CONNECTIONS + host.listeners.len()) {
            let port = self.next_port;
            self.next_port = match port {
                FIRST_EPHEMERAL..LAST_EPHEMERAL => port + 1,
                _ => FIRST_EPHEMERAL,
            };
            let ports = Ports { guest: guest_port, host: port };
            if !host.listeners.contains_key(&port) && !self.by_ports.contains_key(&ports) {
                let id = ConnectionId(host.fresh_id());
                self.insert(id, Connection::connecting(ports));
                return Ok((id, ports));
            }
        }
        Err(VsockError::TooMany)
    }

    /// Reads for the host.
    pub fn read(&mut self, id: ConnectionId, data: &mut [u8]) -> Poll<Result<usize, VsockError>> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Poll::Ready(Err(VsockError::Gone));
        };
        let outcome = connection.read(data);
        self.queue(id);
        outcome
    }

    /// Writes for the host.
    pub fn write(&mut self, id: ConnectionId, data: &[u8]) -> Poll<Result<usize, VsockError>> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Poll::Ready(Err(VsockError::Gone));
        };
        let outcome = connection.write(data);
        self.queue(id);
        outcome
    }

    /// Closes directions for the host.
    pub fn shutdown(
        &mut self,
        id: ConnectionId,
        flags: u32,
        host: &mut HostEndpoints,
    ) -> Result<(), VsockError> {
        let connection = self.connections.get_mut(&id).ok_or(VsockError::Gone)?;
        connection.close(flags);
        host.wake(id);
        self.queue(id);
        Ok(())
    }

    /// The last handle is gone: what was written is still delivered, then the connection ends.
    pub fn release(&mut self, id: ConnectionId, host: &mut HostEndpoints) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match connection.phase {
            ConnectionPhase::Closed(_) => self.remove(id),
            ConnectionPhase::Connecting => {
                if connection.requested {
                    self.reset_peer(id);
                }
                self.remove(id);
            }
            ConnectionPhase::Established if connection.lingering => {}
            ConnectionPhase::Established => {
                connection.lingering = true;
                connection.close(SHUTDOWN_BOTH);
                self.lingering.push_back(id);
                self.queue(id);
                if self.lingering.len() > MAX_LINGERING {
                    self.evict(host);
                }
            }
        }
    }

    /// The guest's driver has forgotten everything: so does the host, except for what the guest
    /// has not heard of yet.
    pub fn forget_guest(&mut self, host: &mut HostEndpoints) {
        let known: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| match connection.phase {
                ConnectionPhase::Connecting => connection.requested,
                ConnectionPhase::Established => true,
                ConnectionPhase::Closed(_) => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in known {
            self.end(id, Ending::Reset, host);
        }
        for id in std::mem::take(&mut self.backlogs).into_values().flatten() {
            if !host.handles.contains_key(&id) {
                self.remove(id);
            }
        }
        self.pending_rst.clear();
        self.transmit_waiting = false;
        self.reset_event_due = false;
    }

    /// Forgets every connection.
    pub fn clear(&mut self) {
        *self = Self { next_port: self.next_port, ..Self::new(self.guest_cid) };
    }

    fn insert(&mut self, id: ConnectionId, connection: Connection) {
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        self.queue(id);
    }

    /// Breaks a connection off, for both sides.
    fn abort(&mut self, id: ConnectionId, host: &mut HostEndpoints) {
        self.reset_peer(id);
        self.end(id, Ending::Reset, host);
    }

    /// Owes the guest a reset of a connection it knows.
    fn reset_peer(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id)
            && self.by_ports.get(&connection.ports) == Some(&id)
        {
            let header = PacketHeader {
                src_cid: HOST_CID,
                dst_cid: self.guest_cid,
                src_port: connection.ports.host,
                dst_port: connection.ports.guest,
                kind: TYPE_STREAM,
                op: Op::Rst as u16,
                ..PacketHeader::default()
            };
            self.queue_rst(header);
        }
    }

    /// The guest does not know `id` any more. It goes, unless the host may still want to read it.
    fn end(&mut self, id: ConnectionId, ending: Ending, host: &mut HostEndpoints) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if matches!(connection.phase, ConnectionPhase::Closed(_)) {
            return;
        }
        connection.end(ending);
        let (ports, lingering) = (connection.ports, connection.lingering);
        if lingering {
            self.remove(id);
        } else {
            self.by_ports.remove(&ports);
            self.unqueue(id);
            host.wake(id);
        }
    }

    fn remove(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if self.by_ports.get(&connection.ports) == Some(&id) {
            self.by_ports.remove(&connection.ports);
        }
        if connection.queued {
            self.ready.retain(|other| *other != id);
        }
        if connection.lingering {
            self.lingering.retain(|other| *other != id);
        }
    }

    /// Makes room for one connection, at the cost of one that only waits for the guest.
    fn make_room(&mut self, host: &mut HostEndpoints) -> bool {
        if self.connections.len() >= MAX_CONNECTIONS {
            self.evict(host);
        }
        self.connections.len() < MAX_CONNECTIONS
    }

    fn evict(&mut self, host: &mut HostEndpoints) {
        if let Some(oldest) = self.lingering.front().copied() {
            host.counters.linger_evictions += 1;
            self.abort(oldest, host);
        }
    }
}
