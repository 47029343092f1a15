//! A booted guest without the agent: frames go in and come out as they are.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest::wire::{ENTROPY_BYTES, Freshness};
use serde_json::{Value, json};
use vmm::{Machine, MachineConfig, VsockStream};

use crate::image;

/// Long enough for a guest under emulation on a busy host.
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u32 = 52000;

/// A running guest whose program is ready.
pub struct RawGuest {
    /// The machine.
    pub machine: Machine,
    /// The `GuestReady` frame.
    pub ready: Value,
}

/// One connection to the guest program.
pub struct RawConnection {
    /// The stream, for tests that break the framing.
    pub stream: VsockStream,
}

/// What came from the guest.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A frame.
    Frame(Value),
    /// The guest closed the connection.
    Closed,
}

/// The configuration most tests use: one vCPU, 128 MiB.
pub fn default_config(extra_cmdline: &str) -> MachineConfig {
    MachineConfig::builder(image::kernel())
        .cmdline(format!("{} {extra_cmdline}", image::cmdline()))
        .disk(image::rootfs())
        .build()
        .expect("every number is in its range")
}

impl RawGuest {
    /// Boots with `extra_cmdline` appended and waits for the guest program.
    pub fn boot(extra_cmdline: &str) -> Self {
        Self::boot_with(default_config(extra_cmdline))
    }

    /// Boots `config` and waits for the guest program.
    pub fn boot_with(config: MachineConfig) -> Self {
        let machine = Machine::create(config).expect("create");
        let listener = machine.vsock().listen(PORT).expect("listen");
        machine.boot().expect("boot");
        let stream = listener.accept(Some(PATIENCE)).unwrap_or_else(|e| {
            panic!("no guest: {e}; console: {:#?}", machine.console().last_lines(20))
        });
        let mut connection = RawConnection { stream };
        let Received::Frame(ready) = connection.receive() else { panic!("no ready frame") };
        Self { machine, ready }
    }

    /// Opens a connection to the guest program.
    pub fn connect(&self) -> RawConnection {
        let stream = self.machine.vsock().connect(PORT, PATIENCE).expect("connect");
        RawConnection { stream }
    }

    /// Runs `echo` on a connection of its own: the guest still works.
    pub fn assert_works(&self) {
        let mut connection = self.connect();
        let result = connection.run("echo", &json!({"message": "still here"}), 10_000);
        assert_eq!(result["exit_code"], 0, "{result}");
        assert_eq!(result["stdout"], "still here\n");
    }
}

impl RawConnection {
    /// Sends one frame.
    pub fn send(&mut self, frame: &Value) {
        self.send_bytes(frame.to_string().as_bytes());
    }

    /// Sends `body` with a correct header.
    pub fn send_bytes(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).expect("body length");
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(body);
        self.stream.write_all(&bytes).expect("send");
    }

    /// Waits for a frame or the end.
    pub fn receive(&mut self) -> Received {
        self.receive_within(PATIENCE).expect("the guest says nothing")
    }

    /// Waits for a frame or the end; `None` when `limit` passes first.
    pub fn receive_within(&mut self, limit: Duration) -> Option<Received> {
        self.stream.set_read_timeout(Some(limit));
        let mut header = [0; 4];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                return None;
            }
            Err(_) => return Some(Received::Closed),
        }
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        self.stream.read_exact(&mut body).expect("frame body");
        Some(Received::Frame(serde_json::from_slice(&body).expect("frame is not JSON")))
    }

    /// Dispatches a tool and returns its `ToolResult`, skipping evidence.
    pub fn run(&mut self, tool: &str, params: &Value, deadline_ms: i64) -> Value {
        let id = format!("cmd-{tool}-{:?}", Instant::now());
        self.send(&dispatch(&id, tool, params, deadline_ms));
        self.result_of(&id)
    }

    /// Waits for the `ToolResult` of a command.
    pub fn result_of(&mut self, command_id: &str) -> Value {
        loop {
            match self.receive() {
                Received::Frame(frame)
                    if frame["type"] == "ToolResult" && frame["command_id"] == command_id =>
                {
                    return frame;
                }
                Received::Frame(frame) if frame["type"] == "ErrorEvent" => {
                    panic!("the guest refused {command_id}: {frame}")
                }
                Received::Frame(_) => {}
                Received::Closed => panic!("closed before the result of {command_id}"),
            }
        }
    }
}

/// A `ToolDispatch` frame.
pub fn dispatch(command_id: &str, tool: &str, params: &Value, deadline_ms: i64) -> Value {
    json!({
        "type": "ToolDispatch",
        "command_id": command_id,
        "tool": tool,
        "params": params,
        "deadline_ms": deadline_ms,
        "freshness": freshness(),
    })
}

/// The time now and new random bytes, as every `ToolDispatch` carries them.
pub fn freshness() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let mut entropy = [0; ENTROPY_BYTES];
    let read = File::open("/dev/urandom").and_then(|mut device| device.read_exact(&mut entropy));
    read.expect("random bytes");
    json!(Freshness::new(u64::try_from(now.as_nanos()).expect("a clock before 2554"), &entropy))
}
