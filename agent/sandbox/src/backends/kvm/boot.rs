//! From a configuration to a machine whose control channel works.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest::registry::RegistryError;
use guest::wire::{GuestMessage, GuestReady, PROTOCOL_VERSION, QueryKind};
use vmm::{KvmKind, Machine, MachineConfig, MachineError, VsockError};

use super::admission::Gate;
use super::connected::{self, Connected};
use super::image::KvmImage;
use super::reports::boot_phases;
use super::{KvmConfig, not_available};
use crate::channel::{FrameReader, STALL_LIMIT};
use crate::error::SandboxError;
use crate::image::ImageError;
use crate::spec::SandboxSpec;
use crate::state::{BootPath, BootReport};

/// For the whole way from the first instruction to a working channel.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
/// For the guest's first answer on the control connection.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How much of the guest's console is kept.
const CONSOLE_BYTES: usize = 64 << 10;

/// Boots. `register` is given the machine before it runs, so that others can stop it, and says
/// whether to go on. After an error nothing is left.
pub fn start(
    spec: &SandboxSpec,
    config: &KvmConfig,
    image: &KvmImage,
    gate: Gate,
    register: impl FnOnce(&Arc<Machine>) -> bool,
) -> Result<Connected, SandboxError> {
    let begun = Instant::now();
    let machine = MachineConfig::builder(Arc::clone(image.kernel()))
        .vcpus(spec.vcpus)
        .memory_mib(spec.memory_mib)
        .cmdline(config.cmdline(spec, image))
        .disk(Arc::clone(image.rootfs()))
        .guest_cid(config.guest_cid)
        .console_bytes(CONSOLE_BYTES)
        .build()
        .map_err(MachineError::from)
        .and_then(Machine::create)
        .map_err(machine_failed)?;
    let machine = Arc::new(machine);
    if !register(&machine) {
        return Err(not_available("the sandbox was shut down while it was booting"));
    }
    establish(&machine, config.guest_port(image), gate, begun).inspect_err(|_| machine.shutdown())
}

/// Everything that can fail once the machine may run.
fn establish(
    machine: &Arc<Machine>,
    port: u32,
    gate: Gate,
    begun: Instant,
) -> Result<Connected, SandboxError> {
    let until = begun + BOOT_LIMIT;
    let failed = |step: &str, error: &dyn std::fmt::Display| failed_at(machine, step, error);

    // The guest calls when it is ready, so the host has to listen before it runs.
    let listener = machine.vsock().listen(port).map_err(|e| failed("listening", &e))?;
    machine.boot().map_err(machine_failed)?;
    let left = until.saturating_duration_since(Instant::now());
    let announcement = listener.accept(Some(left)).map_err(|e| match e {
        VsockError::TimedOut => never_ready(machine),
        e => failed("waiting for the guest program", &e),
    })?;
    drop(listener);
    let mut reader = FrameReader::new(announcement, STALL_LIMIT);
    let ready = match reader.next(until, understand_ready) {
        Ok(Some(ready)) => {
            ready.map_err(|e| failed("reading the guest program's announcement", &e))?
        }
        Ok(None) => return Err(never_ready(machine)),
        Err(e) => return Err(failed("reading the guest program's announcement", &e)),
    };
    drop(reader);
    let to_ready = begun.elapsed();

    let left = until.saturating_duration_since(Instant::now());
    let control =
        machine.vsock().connect(port, left).map_err(|e| failed("connecting to the guest", &e))?;
    let report = BootReport {
        path: BootPath::ColdBoot,
        image: Duration::ZERO,
        machine: boot_phases(machine),
        to_ready,
        handshake: Duration::ZERO,
        capture: Duration::ZERO,
        baseline: Duration::ZERO,
        total: Duration::ZERO,
        guest_boot_us: ready.boot_us,
    };
    let mut connected = Connected::new(Arc::clone(machine), control, Arc::new(gate), report)?;
    // Accepted by a kernel is not yet answered by a program.
    connected
        .query(QueryKind::MemUsage, FIRST_ANSWER_LIMIT)
        .map_err(|e| failed("asking the guest its first question", &e))?;
    connected.report.handshake = begun.elapsed().saturating_sub(to_ready);
    Ok(connected)
}

fn understand_ready(frame: &[u8]) -> Result<GuestReady, String> {
    match serde_json::from_slice(frame) {
        Ok(GuestMessage::GuestReady(ready)) if ready.protocol_version == PROTOCOL_VERSION => {
            Ok(ready)
        }
        Ok(GuestMessage::GuestReady(ready)) => Err(format!(
            "the guest speaks protocol version {}, this agent {PROTOCOL_VERSION}: build the image \
             again with `cargo xtask image`",
            ready.protocol_version
        )),
        Ok(other) => Err(format!("unexpected message {other:?}")),
        Err(e) => Err(format!("not a message: {e}")),
    }
}

/// The guest ran, and its guest program sent no message.
fn never_ready(machine: &Machine) -> SandboxError {
    let interpreted = vmm::probe().is_ok_and(|probe| probe.kind == KvmKind::Software);
    let advice = if interpreted {
        "this host's KVM interprets guest code and cannot boot Linux; run `brainstorm-agent doctor`"
    } else {
        "look at the console lines below, and check that the image's guest program fits this agent"
    };
    failed_at(machine, "waiting for the guest program", &format!("no word in 30 s; {advice}"))
}

pub fn failed_at(machine: &Machine, step: &str, error: &dyn std::fmt::Display) -> SandboxError {
    let reason = match machine.stop_reason() {
        Some(stopped) => format!("while {step}: {stopped}"),
        None => format!("while {step}: {error}"),
    };
    let console = machine.console().last_lines(connected::CONSOLE_LINES);
    SandboxError::BootFailed { reason, console }
}

/// A host without KVM cannot do it; anything else should have worked.
pub fn machine_failed(error: MachineError) -> SandboxError {
    use vmm::KvmError::{ApiVersion, Missing, Open, Permission};
    match error {
        MachineError::Kvm(e @ (Missing | Permission | Open(_) | ApiVersion(_))) => {
            not_available(&e.to_string())
        }
        e => SandboxError::BootFailed { reason: e.to_string(), console: Vec::new() },
    }
}

/// A registry that cannot be used, or a tool to enable that it does not have.
pub fn registry_failed(error: &RegistryError) -> SandboxError {
    let advice = "`brainstorm-agent tools` lists the tools of the image";
    SandboxError::BootFailed { reason: format!("{error}; {advice}"), console: Vec::new() }
}

/// An absent image is a missing prerequisite, a broken one a failed boot.
pub fn image_failed(error: &ImageError) -> SandboxError {
    let reason = error.to_string();
    if error.is_missing() {
        not_available(&reason)
    } else {
        SandboxError::BootFailed { reason, console: Vec::new() }
    }
}
