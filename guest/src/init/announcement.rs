//! The one message PID 1 sends of its own accord, on a connection of its own.

use std::fs::File;
use std::io::Write;

use guest::framing::encode_frame;
use guest::wire::{GuestMessage, GuestReady, PROTOCOL_VERSION};

use super::poller::{Poller, Token};
use super::{timestamp, vsock};

/// A connection to the host that is being made.
pub struct Announcement {
    stream: File,
    port: u32,
}

impl Announcement {
    /// Begins to tell the host that this program listens on `port`.
    pub fn begin(port: u32, poller: &Poller) -> Result<Self, String> {
        let stream = vsock::connect_host(port)?;
        poller.add(&stream, Token::Announcement)?;
        poller.change(&stream, Token::Announcement, false, true);
        Ok(Self { stream, port })
    }

    /// Says it, now that the connection is made or has failed.
    pub fn finish(mut self, poller: &Poller) -> Result<(), String> {
        poller.remove(&self.stream);
        vsock::connected(&self.stream, self.port)?;
        let frame = encode_frame(&GuestMessage::GuestReady(GuestReady {
            protocol_version: PROTOCOL_VERSION,
            port: self.port,
            boot_us: timestamp::since_boot_us(),
        }));
        // A fresh connection takes these few bytes at once.
        self.stream.write_all(&frame.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
    }
}
