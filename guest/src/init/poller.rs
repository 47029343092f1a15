//! Which descriptor is ready, and what for.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Listener,
    Signals,
    Announcement,
    Connection(u64),
    Stdout(u64),
    Stderr(u64),
    StartError(u64),
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Signals => 1,
            Self::Announcement => 6,
            Self::Connection(id) => (id << 3) | 2,
            Self::Stdout(id) => (id << 3) | 3,
            Self::Stderr(id) => (id << 3) | 4,
            Self::StartError(id) => (id << 3) | 5,
        }
    }

    fn unpack(word: u64) -> Self {
        let id = word >> 3;
        match word & 7 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Connection(id),
            3 => Self::Stdout(id),
            4 => Self::Stderr(id),
            5 => Self::StartError(id),
            _ => Self::Announcement,
        }
    }
}

/// An epoll instance.
pub struct Poller {
    epoll: Epoll,
}

impl Poller {
    pub fn new() -> Result<Self, String> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| e.to_string())?;
        Ok(Self { epoll })
    }

    /// Starts watching for input.
    pub fn add(&self, descriptor: impl AsFd, token: Token) -> Result<(), String> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token.pack());
        self.epoll.add(descriptor, event).map_err(|e| e.to_string())
    }

    /// Watches for input, output, both or nothing but the end.
    pub fn change(&self, descriptor: impl AsFd, token: Token, input: bool, output: bool) {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, input);
        flags.set(EpollFlags::EPOLLOUT, output);
        let _ = self.epoll.modify(descriptor, &mut EpollEvent::new(flags, token.pack()));
    }

    /// Stops watching.
    pub fn remove(&self, descriptor: impl AsFd) {
        let _ = self.epoll.delete(descriptor);
    }

    /// Waits until something is ready or `until` has come.
    pub fn wait(&self, until: Option<Instant>) -> Result<Vec<Token>, String> {
        let timeout = until.map_or(EpollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up: waking early would only mean waiting again.
            let left = left + Duration::from_millis(u64::from(!left.is_zero()));
            EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); 64];
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => {
                let ready = events.get(..count).unwrap_or_default();
                Ok(ready.iter().map(|event| Token::unpack(event.data())).collect())
            }
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(e) => Err(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Announcement,
            Token::Connection(7),
            Token::Stdout(0),
            Token::Stderr(u64::MAX >> 3),
            Token::StartError(1),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
