//! What a verified reset costs, part by part.
//!
//! ```text
//! cargo run -p brainstorm-agent --example verified -- IMAGE_DIR [CYCLES [VCPUS]]
//! ```

use std::error::Error;
use std::time::{Duration, Instant};

use sandbox::{ImageSource, KvmSandbox, Sandbox, SandboxConfig, ToolCall};
use serde_json::Map;

const CYCLES: usize = 200;
/// Cycles before measuring.
const WARM_UP: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let image = arguments.next().ok_or("usage: verified IMAGE_DIR [CYCLES [VCPUS]]")?;
    let cycles = arguments.next().map_or(Ok(CYCLES), |number| number.parse())?;
    let vcpus = arguments.next().map_or(Ok(1), |number| number.parse())?;
    let config = SandboxConfig::new(ImageSource::directory(image));
    let sandbox = KvmSandbox::new(SandboxConfig { vcpus, verify: true, ..config });
    let boot = sandbox.boot()?;
    println!("booted in {:.1?}, of which for the baseline {:.1?}", boot.total, boot.baseline);

    let names = ["reset", "verify: disk", "verify: vmm", "verify: guest", "reset again", "all"];
    let mut samples = names.map(|_| Vec::with_capacity(cycles));
    for cycle in 0..WARM_UP + cycles {
        let params = Map::from_iter([("message".to_owned(), "hello".into())]);
        sandbox.execute_tool(ToolCall::new("echo", params))?;
        let begun = Instant::now();
        let verified = sandbox.reset_and_verify()?;
        if let Some(reason) = verified.verification.failure() {
            return Err(format!("cycle {cycle}: {reason}").into());
        }
        let again = sandbox.reset()?;
        let all = begun.elapsed();
        if cycle >= WARM_UP {
            let parts = verified.verification.parts;
            let reset = verified.outcome.ok_or("it was not reset")?.report.parts.total();
            let again = again.report.parts.total();
            let row = [reset, parts.disk, parts.vmm, parts.guest, again, all];
            for (samples, sample) in samples.iter_mut().zip(row) {
                samples.push(sample);
            }
        }
    }
    println!("{cycles} cycles, in microseconds:");
    println!("{:14} {:>8} {:>8} {:>8} {:>8}", "", "p50", "p90", "p99", "max");
    for (name, mut samples) in names.into_iter().zip(samples) {
        samples.sort_unstable();
        let [p50, p90, p99, max] = [500, 900, 990, 1000].map(|part| quantile(&samples, part));
        println!("{name:14} {p50:>8} {p90:>8} {p99:>8} {max:>8}");
    }
    Ok(())
}

/// The smallest sample that at least this part of the samples, in thousandths, does not exceed.
fn quantile(sorted: &[Duration], thousandths: usize) -> u128 {
    let rank = (sorted.len() * thousandths).div_ceil(1000);
    sorted.get(rank.saturating_sub(1)).map_or(0, Duration::as_micros)
}
