//! Ways to reach anything outside the machine.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::wait::WaitStatus;

use crate::log::Log;
use crate::system::{Answer, address, call, call_32, close, exit_now, fork, length, wait};

const AF_VSOCK: u16 = 40;
/// One past the last family that Linux knows.
const FAMILIES: i64 = 46;
const ENOUGH: i64 = 3;
/// Ports of the host to try: well-known ones, the agent's own, the ends of the range.
const HOST_PORTS: &[u32] = &[1, 22, 80, 1024, 9000, 51_999, 52_000, 52_001, u32::MAX - 1];
/// Other addresses: hypervisor, loopback, host under another name, neighbours, wildcard.
const CIDS: &[u32] = &[0, 1, 4, 5, 1_000, u32::MAX - 1, u32::MAX];
const PORT: u32 = 52_000;

/// `listening`: ports of the host that must answer, as a control.
pub fn run(listening: &[u32]) -> ExitCode {
    let mut log = Log::new("egress");
    controls(&mut log);
    for port in listening {
        log.control(&format!("vsock to listening port {port}"), vsock(2, *port));
    }
    families(&mut log);
    internet(&mut log);
    for port in HOST_PORTS {
        log.attempt("vsock", format!("cid 2 port {port}"), vsock(2, *port));
    }
    for cid in CIDS {
        log.attempt("vsock", format!("cid {cid} port {PORT}"), vsock(*cid, PORT));
    }
    for (kind, name) in [(libc::SOCK_DGRAM, "datagram"), (libc::SOCK_SEQPACKET, "seqpacket")] {
        log.attempt("vsock", name, vsock_of(kind, 2, PORT));
    }
    log.attempt("vsock listen", format!("port {PORT}"), listen_where_init_listens());
    abstract_names(&mut log);
    around_the_filter(&mut log);
    log.fact("interfaces", names("/sys/class/net"));
    log.fact("virtio_devices", virtio_devices());
    log.fact("pci", fs::exists("/sys/bus/pci/devices").unwrap_or_default());
    log.print()
}

/// Sockets work where they are allowed to: between processes of the tool.
fn controls(log: &mut Log) {
    let pair = || -> std::io::Result<()> {
        let (mut one, mut other) = UnixStream::pair()?;
        one.write_all(b"x")?;
        other.read_exact(&mut [0])
    };
    log.control("unix pair", told(pair()));
    let path = format!("/tmp/control-{}", std::process::id());
    let by_name = || -> std::io::Result<()> {
        let listener = UnixListener::bind(&path)?;
        let mut one = UnixStream::connect(&path)?;
        let (mut other, _) = listener.accept()?;
        one.write_all(b"x")?;
        other.read_exact(&mut [0])
    };
    log.control("unix socket by name", told(by_name()));
    let _ = fs::remove_file(&path);
}

fn told(result: std::io::Result<()>) -> Answer {
    result.map(|()| 0).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or_default()))
}

/// Every address family, as every kind of socket. `AF_UNIX` is allowed; sockets of `AF_VSOCK` and
/// `AF_NETLINK` lead out only where they can be connected, which is tried apart.
fn families(log: &mut Log) {
    for family in 0..FAMILIES {
        if family == i64::from(libc::AF_UNIX) || family == i64::from(AF_VSOCK) {
            continue;
        }
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW] {
            let answer = call(libc::SYS_socket, [family, kind.into(), 0]);
            if let Ok(descriptor) = answer {
                close(descriptor);
            }
            // A kernel's own notices are no way out of the machine.
            if family != i64::from(libc::AF_NETLINK) || answer.is_err() {
                log.attempt("socket", format!("family {family} kind {kind}"), answer);
            } else {
                log.fact("netlink", "the kernel has it");
            }
        }
    }
}

/// `struct sockaddr_in` of an address that exists nowhere (RFC 5737), and of this machine.
fn internet(log: &mut Log) {
    for (name, kind, protocol, port, host) in [
        ("tcp", libc::SOCK_STREAM, 0, 4242_u16, [198, 51, 100, 1]),
        ("tcp", libc::SOCK_STREAM, 0, 80, [127, 0, 0, 1]),
        ("udp", libc::SOCK_DGRAM, 0, 53, [192, 0, 2, 53]),
        ("icmp", libc::SOCK_RAW, 1, 0, [198, 51, 100, 1]),
    ] {
        let mut to = [0_u8; 16];
        to[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        to[2..4].copy_from_slice(&port.to_be_bytes());
        to[4..8].copy_from_slice(&host);
        let [a, b, c, d] = host;
        let answer = call(libc::SYS_socket, [libc::AF_INET.into(), kind.into(), protocol])
            .and_then(|socket| call(libc::SYS_connect, [socket, address(&to), 16]));
        log.attempt(name, format!("{a}.{b}.{c}.{d}:{port}"), answer);
    }
    let mut to = [0_u8; 28];
    to[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    let answer = call(libc::SYS_socket, [libc::AF_INET6.into(), libc::SOCK_STREAM.into(), 0])
        .and_then(|socket| call(libc::SYS_connect, [socket, address(&to), 28]));
    log.attempt("tcp6", "[::]:0", answer);
    let every = i64::from(0x0003_u16.to_be());
    let answer = call(libc::SYS_socket, [libc::AF_PACKET.into(), libc::SOCK_RAW.into(), every]);
    log.attempt("packet", "every interface", answer);
}

fn vsock(cid: u32, port: u32) -> Answer {
    vsock_of(libc::SOCK_STREAM, cid, port)
}

/// Connects, for a limited time: an address that never answers must not hold the attack.
fn vsock_of(kind: libc::c_int, cid: u32, port: u32) -> Answer {
    let socket = call(libc::SYS_socket, [AF_VSOCK.into(), kind.into(), 0])?;
    let patience = [1_i64, 0];
    // SO_VM_SOCKETS_CONNECT_TIMEOUT of AF_VSOCK.
    let _ = call(libc::SYS_setsockopt, [socket, AF_VSOCK.into(), 6, address(&patience), 16]);
    let to = vsock_address(cid, port);
    let answer = call(libc::SYS_connect, [socket, address(&to), 16]);
    close(socket);
    answer
}

/// `struct sockaddr_vm`.
fn vsock_address(cid: u32, port: u32) -> [u8; 16] {
    let mut to = [0; 16];
    to[..2].copy_from_slice(&AF_VSOCK.to_ne_bytes());
    to[4..8].copy_from_slice(&port.to_ne_bytes());
    to[8..12].copy_from_slice(&cid.to_ne_bytes());
    to
}

fn listen_where_init_listens() -> Answer {
    let socket = call(libc::SYS_socket, [AF_VSOCK.into(), libc::SOCK_STREAM.into(), 0])?;
    let to = vsock_address(u32::MAX, PORT);
    let answer = call(libc::SYS_bind, [socket, address(&to), 16])
        .and_then(|_| call(libc::SYS_listen, [socket, ENOUGH]));
    close(socket);
    answer
}

/// Names of sockets that other processes of the machine listen on.
fn abstract_names(log: &mut Log) {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let others: Vec<&str> =
        text.lines().filter_map(|line| line.split_whitespace().nth(7)).collect();
    log.fact("unix_names", others.len());
    for name in others.iter().copied().chain(["@init", "@bsm", "@agent", "@0"]).take(16) {
        let mut to = [0_u8; 110];
        to[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
        let bytes = name.as_bytes();
        let kept = bytes.len().min(100);
        to[2..2 + kept].copy_from_slice(&bytes[..kept]);
        if name.starts_with('@') {
            to[2] = 0;
        }
        let answer = call(libc::SYS_socket, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0])
            .and_then(|s| call(libc::SYS_connect, [s, address(&to), length(2 + kept)]));
        log.attempt("unix", name, answer);
    }
}

/// Tries the system calls of sockets by other numbers, and calls that make calls.
fn around_the_filter(log: &mut Log) {
    // The x32 numbers begin here.
    let x32 = 0x4000_0000 | libc::SYS_socket;
    log.attempt("x32 socket", "family 40", call(x32, [AF_VSOCK.into(), 1, 0]));
    log.attempt("io_uring_setup", "", call(libc::SYS_io_uring_setup, [8, address(&[0_u8; 120])]));
    let in_child = fork().and_then(|child| {
        let Some(child) = child else {
            // socketcall(SYS_SOCKET, bad address): EFAULT says that it was let through.
            let answer = call_32(102, 1, 0);
            exit_now(i64::from(answer == -libc::EFAULT));
        };
        // A process that may not even try is killed.
        match wait(child)? {
            WaitStatus::Exited(_, 1) => Ok(0),
            _ => Err(Errno::EPERM),
        }
    });
    log.attempt("32-bit socketcall", "", in_child);
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Device types (virtio 1.2, section 5) of everything on the bus.
fn virtio_devices() -> Vec<String> {
    let mut found: Vec<String> = names("/sys/bus/virtio/devices")
        .iter()
        .filter_map(|n| fs::read_to_string(format!("/sys/bus/virtio/devices/{n}/device")).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    found.sort_unstable();
    found
}
