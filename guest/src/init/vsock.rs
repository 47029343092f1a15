//! AF_VSOCK sockets.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::SocketError;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, getsockopt,
    listen, socket,
};

const BACKLOG: i32 = 128;
const HOST_CID: u32 = 2;

/// A listening, non-blocking socket on `port` for every address.
pub fn listener(port: u32) -> Result<OwnedFd, String> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)
        .map_err(|e| format!("no vsock: {e}"))?;
    bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port))
        .map_err(|e| format!("cannot bind vsock port {port}: {e}"))?;
    let backlog = Backlog::new(BACKLOG).map_err(|e| e.to_string())?;
    listen(&socket, backlog).map_err(|e| format!("cannot listen on vsock port {port}: {e}"))?;
    Ok(socket)
}

/// The next waiting connection, non-blocking.
pub fn accept(listener: &OwnedFd) -> Option<File> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = accept4(listener.as_raw_fd(), flags).ok()?;
    // SAFETY: accept4 has just returned this descriptor and no other code has it.
    Some(unsafe { File::from_raw_fd(descriptor) })
}

/// Begins a connection to the host. It is made, or has failed, once it can be written to.
pub fn connect_host(port: u32) -> Result<File, String> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)
        .map_err(|e| format!("no vsock: {e}"))?;
    match connect(socket.as_raw_fd(), &VsockAddr::new(HOST_CID, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(File::from(socket)),
        Err(e) => Err(refused(port, e)),
    }
}

/// Whether a connection that was begun has been made.
pub fn connected(stream: &File, port: u32) -> Result<(), String> {
    match getsockopt(stream, SocketError).map(Errno::from_raw) {
        Ok(Errno::UnknownErrno) => Ok(()),
        Ok(e) | Err(e) => Err(refused(port, e)),
    }
}

fn refused(port: u32, error: Errno) -> String {
    format!("the host does not listen on vsock port {port}: {error}")
}
