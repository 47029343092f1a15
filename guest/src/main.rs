//! The guest program. As `/sbin/init` it is PID 1; through symbolic links it is also a few tools.

mod init;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let program = arguments.next().unwrap_or_default();
    let name = Path::new(&program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match guest::applets::find(name) {
        Some(applet) => applet(&arguments.collect::<Vec<_>>()),
        None => init::run(),
    }
}
