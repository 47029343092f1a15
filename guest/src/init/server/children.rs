//! Children of PID 1 that end: tools, and orphans of tools.

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::Server;

impl Server {
    /// Collects every child that has ended: tools, and orphans of tools.
    pub(super) fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.collect(Some(WaitPidFlag::WNOHANG));
    }

    /// Without a flag, waits until there are no children any more.
    pub(super) fn collect(&mut self, flag: Option<WaitPidFlag>) {
        loop {
            match waitpid(None, flag) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(status) => self.ended(status),
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.emptying.retain(|group| !group.remove());
    }

    pub(super) fn ended(&mut self, status: WaitStatus) {
        let found = self.tools.iter().find(|(_, tool)| Some(tool.pid) == status.pid());
        if let Some(tool_id) = found.map(|(tool_id, _)| *tool_id) {
            self.finish(tool_id, status);
        }
    }

    pub(super) fn finish(&mut self, tool_id: u64, status: WaitStatus) {
        let room = self.room();
        let Some(tool) = self.tools.remove(&tool_id) else { return };
        for stream in [&tool.stdout, &tool.stderr] {
            if !stream.ended {
                self.poller.remove(stream.pipe());
            }
        }
        if let Some(pipe) = &tool.start_error {
            self.poller.remove(pipe);
        }
        self.remember(&tool.command_id);
        let id = tool.connection;
        let (messages, cgroup) = tool.finish(status, room);
        for message in &messages {
            self.send(id, message);
        }
        self.emptying.push(cgroup);
    }

    /// Kills every tool and waits until all their processes are gone, orphans included. SIGKILL
    /// makes that short.
    pub(super) fn stop_all_tools(&mut self) {
        for tool in self.tools.values() {
            tool.kill();
        }
        self.collect(None);
    }
}
