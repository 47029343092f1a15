//! Keeps the host busy for as long as it is told to.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::log::Log;
use crate::system::{Answer, address, call, close, length, open};

/// Bytes of one request.
const PIECE: usize = 4096;
const AF_VSOCK: i64 = 40;

/// What the kernel can read into directly.
#[repr(align(4096))]
struct Aligned([u8; PIECE]);

/// Does `what` again and again, and says how often.
pub fn run(what: &str, milliseconds: u64) -> ExitCode {
    let until = Instant::now() + Duration::from_millis(milliseconds);
    let done = match what {
        "processors" => Ok(spin(until)),
        "interrupts" => open("/dev/hwrng", libc::O_RDONLY).and_then(|file| read(until, file)),
        "disk" => open("/dev/vda", libc::O_RDONLY | libc::O_DIRECT).and_then(|f| read(until, f)),
        "console" => open("/dev/console", libc::O_WRONLY).and_then(|file| write(until, file)),
        "sockets" => repeat(until, connect),
        _ => return ExitCode::from(2),
    };
    let mut log = Log::new("flood");
    log.fact("times", done.unwrap_or_default());
    log.control(what, done.map(u64::cast_signed));
    log.print()
}

fn repeat(until: Instant, mut once: impl FnMut() -> Result<(), Errno>) -> Result<u64, Errno> {
    let mut times = 0;
    while Instant::now() < until {
        once()?;
        times += 1;
    }
    Ok(times)
}

fn spin(until: Instant) -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for _ in 1..threads {
        std::thread::spawn(move || while Instant::now() < until {});
    }
    repeat(until, || Ok(())).unwrap_or_default()
}

/// Every read is a request to a device, and an interrupt.
fn read(until: Instant, file: i64) -> Result<u64, Errno> {
    let buffer = Aligned([0; PIECE]);
    repeat(until, || {
        let arguments = [file, address(&buffer.0), length(PIECE), 0];
        match call(libc::SYS_pread64, arguments) {
            // A device that has no places.
            Err(Errno::ESPIPE) => call(libc::SYS_read, arguments).map(drop),
            other => other.map(drop),
        }
    })
}

/// Every byte is an access to a port.
fn write(until: Instant, file: i64) -> Result<u64, Errno> {
    let line = [b'#'; 64];
    repeat(until, || call(libc::SYS_write, [file, address(&line), length(line.len())]).map(drop))
}

/// Connects to a port without a listener: asked for and refused.
fn connect() -> Result<(), Errno> {
    let socket = call(libc::SYS_socket, [AF_VSOCK, libc::SOCK_STREAM.into(), 0])?;
    // `struct sockaddr_vm`: the host, port 1.
    let mut to = [0_u8; 16];
    to[0] = AF_VSOCK as u8;
    to[4] = 1;
    to[8] = 2;
    let answer: Answer = call(libc::SYS_connect, [socket, address(&to), length(to.len())]);
    close(socket);
    match answer {
        Ok(_) => Err(Errno::EISCONN),
        Err(_) => Ok(()),
    }
}
