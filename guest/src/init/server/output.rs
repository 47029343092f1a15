//! Output on its way to the host, and what holds it back: a host that is slow to read stops the
//! tools that write, and what waits here has a bound.

use guest::wire::GuestMessage;

use super::super::connection::Fate;
use super::super::poller::Token;
use super::super::tool::{Piece, Tool, Which};
use super::Server;

impl Server {
    /// How much more output of tools fits into memory.
    pub(super) fn room(&self) -> usize {
        self.kept_limit.saturating_sub(self.tools.values().map(Tool::kept).sum())
    }

    pub(super) fn read_tool(&mut self, tool_id: u64, which: Which) {
        let room = self.room();
        let Some(tool) = self.tools.get_mut(&tool_id) else { return };
        let piece = tool.read(which, room);
        let (stream, ended) = match which {
            Which::Stdout => (tool.stdout.pipe(), tool.stdout.ended),
            Which::Stderr => (tool.stderr.pipe(), tool.stderr.ended),
        };
        if ended {
            self.poller.remove(stream);
        }
        let id = tool.connection;
        if let Piece::Evidence(message) = piece {
            self.send(id, &message);
            if let Some(connection) = self.connections.get_mut(&id).filter(|c| c.is_congested()) {
                connection.tools_paused = true;
                self.watch_pipes_of(id);
            }
        }
    }

    pub(super) fn read_start_error(&mut self, tool_id: u64) {
        if let Some(tool) = self.tools.get_mut(&tool_id) {
            if let Some(pipe) = &tool.start_error {
                self.poller.remove(pipe);
            }
            tool.read_start_error();
        }
    }

    /// The output of a tool waits in its pipe while its peer is slow to take what there is.
    pub(super) fn watch_pipes_of(&self, id: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        let input = !connection.is_congested();
        for (tool_id, tool) in self.tools.iter().filter(|(_, tool)| tool.connection == id) {
            for (stream, token) in
                [(&tool.stdout, Token::Stdout(*tool_id)), (&tool.stderr, Token::Stderr(*tool_id))]
            {
                if !stream.ended {
                    self.poller.change(stream.pipe(), token, input, false);
                }
            }
        }
    }

    pub(super) fn send(&mut self, id: u64, message: &GuestMessage) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(message);
            self.flush(id);
        }
    }

    pub(super) fn flush(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.flush() == Fate::Closed {
            return self.drop_connection(id);
        }
        let interest = connection.wanted();
        if interest != connection.interest {
            connection.interest = interest;
            self.poller.change(connection.stream(), Token::Connection(id), interest.0, interest.1);
        }
        if connection.tools_paused && !connection.has_unsent() {
            connection.tools_paused = false;
            self.watch_pipes_of(id);
        }
    }

    /// Kills the tools of the connection: no host is left to take their results.
    pub(super) fn drop_connection(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.poller.remove(connection.stream());
        }
        for tool in self.tools.values().filter(|tool| tool.connection == id) {
            tool.kill();
        }
    }
}
