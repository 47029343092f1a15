//! What a reset costs that proves itself: reset, every source asked, reset again; and what
//! each part of that costs.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sandbox::{
    ImageSource, KvmConfig, KvmImage, KvmSandbox, Resets, Sandbox, SandboxSpec, ToolCall,
    VerifiedReset,
};

use brainstorm_agent::bench::Report;

/// Not measured: the first ones find untouched memory of the host.
const WARM_UP: usize = 5;

/// A part of it: its name and how to read it from the first reset.
type Part = (&'static str, fn(&VerifiedReset) -> Duration);

const PARTS: [Part; 6] = [
    ("  record of the disk, before", |v| v.verification.parts.before),
    ("  first reset", |v| v.outcome.as_ref().map_or(Duration::ZERO, |o| o.phases.total())),
    ("  memory", |v| v.verification.parts.memory),
    ("  disk", |v| v.verification.parts.disk),
    ("  state in KVM and the devices, beside these two", |v| v.verification.parts.monitor),
    ("  the guest's answers", |v| v.verification.parts.guest),
];

/// Calls `echo` and puts the machine back, `calls` times.
pub fn measure(
    image_dir: &Path,
    image: &Arc<KvmImage>,
    calls: usize,
    report: &mut Report,
) -> Result<()> {
    let source = ImageSource::directory(image_dir);
    let spec = SandboxSpec::new(source).with_resets(Resets::Verified);
    let sandbox = KvmSandbox::with_image(spec, KvmConfig::default(), Arc::clone(image));
    sandbox.boot()?;
    let (mut whole, mut second, mut parts) =
        (Vec::new(), Vec::new(), vec![Vec::new(); PARTS.len()]);
    for turn in 0..WARM_UP + calls {
        let params = serde_json::json!({"message": "hello"});
        let call = ToolCall::new("echo", params.as_object().cloned().unwrap_or_default());
        let outcome = sandbox.execute_tool(call)?;
        ensure!(outcome.stdout == b"hello\n", "echo said {:?}", outcome.stdout);
        let begun = Instant::now();
        let verified = sandbox.reset_and_verify()?;
        let again = sandbox.reset()?;
        let took = begun.elapsed();
        ensure!(verified.verification.passed(), "{:?}", verified.verification.failure());
        if turn >= WARM_UP {
            whole.push(took);
            second.push(again.took);
            for (samples, (_, part)) in parts.iter_mut().zip(&PARTS) {
                samples.push(part(&verified));
            }
        }
    }
    report.add("reset after echo, verified, and reset again", &whole, Some("<= 20 ms nested"));
    for (samples, (name, _)) in parts.iter().zip(&PARTS) {
        report.add(*name, samples, None);
    }
    report.add("  second reset", &second, None);
    Ok(())
}
