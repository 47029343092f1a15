//! `brainstorm-agent canonicalize`

use std::process::ExitCode;

use super::{Exit, stdin, terminal};
use protocol::Json;
use protocol::canonical::MAX_BYTES;

pub fn run() -> ExitCode {
    let text = match stdin::text(MAX_BYTES) {
        Ok(text) => text,
        Err(error) => return terminal::complain(&error, Exit::Refused),
    };
    let json = match Json::parse(&text) {
        Ok(json) => json,
        Err(error) => return terminal::complain(&error, Exit::Refused),
    };
    match terminal::print(&json.canonical()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => terminal::complain(&error, Exit::Refused),
    }
}
