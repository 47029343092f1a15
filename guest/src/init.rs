//! PID 1: sets the guest up, then serves the control connection. One thread, one event loop, no
//! timer while nothing runs: an idle guest does nothing at all.

mod announcement;
mod census;
mod connection;
mod console;
mod defence;
mod freshness;
mod output;
mod poller;
mod reason;
mod server;
mod setup;
mod timestamp;
mod tool;
mod vsock;

use std::process::ExitCode;
use std::time::Duration;

const HEARTBEAT: Duration = Duration::from_secs(60);

/// Never returns: the kernel panics when PID 1 ends.
pub fn run() -> ExitCode {
    std::panic::set_hook(Box::new(|info| stay(&format!("panic: {info}"))));
    match start() {
        Ok(never) => match never {},
        Err(reason) => stay(&reason),
    }
}

fn start() -> Result<std::convert::Infallible, String> {
    console::open();
    setup::mounts()?;
    setup::protect_self();
    let port = setup::port(std::env::var("BSM_VSOCK_PORT").ok().as_deref());
    let enabled = std::env::var("BSM_ENABLE_TOOLS").unwrap_or_default();
    let registry = setup::registry(&enabled)?;
    let mut server = server::Server::new(registry, port)?;
    server.announce();
    server.serve()
}

/// Something is beyond repair. Says so on the console and stays, so that it can be read.
fn stay(reason: &str) -> ! {
    loop {
        console::print(reason);
        std::thread::sleep(HEARTBEAT);
    }
}
