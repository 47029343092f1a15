//! A guest program that keeps to the protocol until a command tells it how to break it.

mod line;
mod poison;

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest::evidence::Chain;
use guest::wire::{
    Encoding, EvidenceChunk, FreshnessAck, GuestMessage, GuestReady, GuestResponse, HostMessage,
    PROTOCOL_VERSION, QueryKind, ResetAck, ToolDispatch, ToolResult, entropy_sha256,
};
use line::Line;
use nix::mount::{MsFlags, mount};
use serde_json::json;

/// Tool whose `mode` says how to break the protocol.
const POISON: &str = "attack_poison";

/// Never returns: the kernel panics when PID 1 ends.
pub fn run() -> ExitCode {
    let _ = mount(Some("devtmpfs"), "/dev", Some("devtmpfs"), MsFlags::empty(), None::<&str>);
    let port = std::env::var("BSM_VSOCK_PORT").ok().and_then(|text| text.parse().ok());
    match serve(port.unwrap_or(guest::wire::DEFAULT_PORT)) {
        Ok(never) => match never {},
        Err(_) => loop {
            std::thread::sleep(Duration::from_secs(60));
        },
    }
}

fn serve(port: u32) -> std::io::Result<Infallible> {
    let listener = line::listen(port)?;
    let mut announcement = Line::to_host(port)?;
    announcement.say(&GuestMessage::GuestReady(GuestReady {
        protocol_version: PROTOCOL_VERSION,
        port,
        boot_us: 1,
    }))?;
    drop(announcement);
    loop {
        let mut line = Line::accept(&listener)?;
        // Whatever becomes of a connection, another one may come, also meanwhile.
        std::thread::spawn(move || {
            while let Ok(Some(message)) = line.receive() {
                if answer(&mut line, message, port).is_err() {
                    break;
                }
            }
        });
    }
}

fn answer(line: &mut Line, message: HostMessage, port: u32) -> std::io::Result<()> {
    match message {
        HostMessage::ToolDispatch(dispatch) if dispatch.tool == POISON => {
            poison::run(line, &dispatch, port)
        }
        HostMessage::ToolDispatch(dispatch) => {
            line.say(&acknowledge(&dispatch))?;
            for message in result(&dispatch, "well behaved\n") {
                line.say(&message)?;
            }
            Ok(())
        }
        HostMessage::GuestQuery(query) => line.say(&GuestMessage::GuestResponse(GuestResponse {
            result: match query.query_kind {
                QueryKind::OpenFdCount => json!({"open_fd_count": 7, "pid1_open_fd_count": 5}),
                QueryKind::MemUsage => json!({"bytes_used": 1, "bytes_total": 2}),
                QueryKind::ProcessList => json!({"processes": [{"name": "init", "pid": 1}]}),
            },
            query_id: query.query_id,
            query_kind: query.query_kind,
            ts: "2025-01-01T00:00:00Z".into(),
        })),
        HostMessage::ResetSignal(signal) => line.say(&GuestMessage::ResetAck(ResetAck {
            reset_id: signal.reset_id,
            reset_complete_at: "2025-01-01T00:00:00Z".into(),
            golden_hash: String::new(),
            verification_passed: false,
        })),
    }
}

/// Says that time and randomness are new, which a guest can say without it being so.
fn acknowledge(dispatch: &ToolDispatch) -> GuestMessage {
    let entropy = dispatch.freshness.entropy_bytes().unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or_default();
    GuestMessage::FreshnessAck(FreshnessAck {
        command_id: dispatch.command_id.clone(),
        guest_time_ns: now.max(dispatch.freshness.wall_time_ns),
        entropy_sha256: entropy_sha256(&entropy),
    })
}

/// The last chunks and the result of a tool that printed `text`.
fn result(dispatch: &ToolDispatch, text: &str) -> [GuestMessage; 3] {
    let mut chain = Chain::new(&dispatch.command_id);
    let data = [&[guest::output::STDOUT_TAG], text.as_bytes()].concat();
    let first = chunk(&mut chain, &dispatch.command_id, &data, false);
    let last = chunk(&mut chain, &dispatch.command_id, &[], true);
    let result = GuestMessage::ToolResult(ToolResult {
        command_id: dispatch.command_id.clone(),
        exit_code: 0,
        stdout: text.to_owned(),
        stderr: String::new(),
        evidence_hash: chain.hash(),
        stdout_encoding: Encoding::Utf8,
        stderr_encoding: Encoding::Utf8,
        stdout_bytes: text.len() as u64,
        stderr_bytes: 0,
        stdout_truncated: false,
        stderr_truncated: false,
        reason: None,
        message: None,
        duration_us: 1,
    });
    [first, last, result]
}

fn chunk(chain: &mut Chain, command_id: &str, data: &[u8], is_terminal: bool) -> GuestMessage {
    use base64::Engine;
    GuestMessage::EvidenceChunk(EvidenceChunk {
        command_id: command_id.to_owned(),
        seq: chain.append(data),
        chunk_data: base64::engine::general_purpose::STANDARD.encode(data),
        chunk_size: data.len() as u64,
        is_terminal,
    })
}
