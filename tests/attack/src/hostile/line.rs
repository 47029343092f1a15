//! Frames and bytes on a vsock connection.

use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::FromRawFd;

use guest::framing::{FrameDecoder, encode_frame};
use guest::wire::{GuestMessage, HostMessage};

const HOST_CID: u32 = 2;

/// A connection.
pub struct Line {
    stream: File,
    decoder: FrameDecoder,
}

impl Line {
    /// Connects to a port of the host.
    pub fn to_host(port: u32) -> std::io::Result<Self> {
        let (descriptor, stream) = socket()?;
        let to = address(HOST_CID, port);
        let size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        // SAFETY: the address is read during the call, and is as long as said.
        let result = unsafe { libc::connect(descriptor, (&raw const to).cast(), size) };
        if result < 0 {
            return Err(Error::last_os_error());
        }
        Ok(Self { stream, decoder: FrameDecoder::new() })
    }

    /// Waits for the next connection.
    pub fn accept(listener: &File) -> std::io::Result<Self> {
        use std::os::fd::AsRawFd;
        let nowhere = std::ptr::null_mut();
        // SAFETY: the caller's address is not asked for.
        let descriptor = unsafe { libc::accept(listener.as_raw_fd(), nowhere, nowhere.cast()) };
        if descriptor < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor and no other code has it.
        let stream = unsafe { File::from_raw_fd(descriptor) };
        Ok(Self { stream, decoder: FrameDecoder::new() })
    }

    /// The next message; `None` at the end.
    pub fn receive(&mut self) -> std::io::Result<Option<HostMessage>> {
        let mut piece = [0; 4096];
        loop {
            if let Some(body) = self.decoder.next_frame().map_err(Error::other)? {
                return guest::wire::parse(body).map(Some).map_err(Error::other);
            }
            let read = self.stream.read(&mut piece)?;
            if read == 0 {
                return Ok(None);
            }
            self.decoder.push(&piece[..read]);
        }
    }

    /// Sends a message.
    pub fn say(&mut self, message: &GuestMessage) -> std::io::Result<()> {
        let frame = encode_frame(message).map_err(Error::other)?;
        self.raw(&frame)
    }

    /// Sends a frame whose body is anything.
    pub fn frame(&mut self, body: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(body.len()).map_err(Error::other)?;
        self.raw(&[&length.to_be_bytes(), body].concat())
    }

    /// Sends bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }
}

/// Listens on a port, for every address.
pub fn listen(port: u32) -> std::io::Result<File> {
    let (descriptor, stream) = socket()?;
    let at = address(libc::VMADDR_CID_ANY, port);
    let size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the address is read during the call, and is as long as said.
    let bound = unsafe { libc::bind(descriptor, (&raw const at).cast(), size) };
    // SAFETY: only integers.
    if bound < 0 || unsafe { libc::listen(descriptor, 16) } < 0 {
        return Err(Error::last_os_error());
    }
    Ok(stream)
}

fn socket() -> std::io::Result<(libc::c_int, File)> {
    // SAFETY: only integers.
    let descriptor = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) };
    if descriptor < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor and no other code has it.
    Ok((descriptor, unsafe { File::from_raw_fd(descriptor) }))
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    libc::sockaddr_vm {
        svm_family: libc::AF_VSOCK as libc::sa_family_t,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    }
}
