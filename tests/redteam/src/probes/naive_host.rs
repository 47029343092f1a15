//! A host that believes what a guest sends: its control connection checks no ids, freshness or
//! evidence.

use std::io::{Read, Write};
use std::time::Duration;

use guest::framing::{FrameDecoder, encode_frame};
use guest::wire::{DEFAULT_PORT, Freshness, GuestMessage, HostMessage, ToolDispatch};
use serde_json::json;
use uuid::Uuid;

use crate::Testbed;
use sandbox::KvmSandbox;

/// How long the host waits for a result, which comes at once or not at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a hostile guest over a connection of its own to answer as `mode` says. Gives the exit code of
/// the first result that the guest sends.
pub fn first_result(testbed: &Testbed, sandbox: &KvmSandbox, mode: &str) -> Result<i32, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let config = testbed.kvm_config().map_err(|e| told(&e))?;
    let manifest = testbed.plan().sandbox.image.manifest().map_err(|e| told(&e))?;
    let port = manifest.map_or(DEFAULT_PORT, |manifest| manifest.guest_port);
    let port = config.guest_port.unwrap_or(port);
    let machine = sandbox.machine().ok_or("there is no machine")?;
    let mut stream = machine.vsock().connect(port, PATIENCE).map_err(|e| told(&e))?;
    stream.set_read_timeout(Some(PATIENCE));
    let params = json!({"mode": mode, "count": 1});
    let dispatch = HostMessage::ToolDispatch(ToolDispatch {
        command_id: Uuid::new_v4().to_string(),
        tool: "attack_poison".to_owned(),
        params: params.as_object().cloned().unwrap_or_default(),
        deadline_ms: 1000,
        freshness: Freshness::new(0, &[9; 32]),
    });
    let frame = encode_frame(&dispatch).map_err(|e| told(&e))?;
    stream.write_all(&frame).map_err(|e| told(&e))?;
    let mut decoder = FrameDecoder::new();
    let mut piece = [0; 4096];
    loop {
        while let Some(body) = decoder.next_frame().map_err(|e| told(&e))? {
            if let Ok(GuestMessage::ToolResult(result)) = serde_json::from_slice(body) {
                return Ok(result.exit_code);
            }
        }
        let read = stream.read(&mut piece).map_err(|e| told(&e))?;
        match piece.get(..read) {
            Some([]) | None => return Err("the guest hung up".to_owned()),
            Some(bytes) => decoder.push(bytes),
        }
    }
}
