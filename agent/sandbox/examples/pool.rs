//! A pool of warm machines: each call gets a clean one, and machines are reset off the caller's path.
//!
//! ```text
//! cargo run --release -p sandbox --example pool -- IMAGE_DIR [MACHINES]
//! ```

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use sandbox::pool::{Pool, PoolConfig};
use sandbox::{ImageSource, KvmConfig, KvmSandbox, KvmSource, Sandbox, SandboxSpec, ToolCall};
use serde_json::json;

/// Calls of each caller.
const CALLS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let image = arguments.next().ok_or("usage: pool IMAGE_DIR [MACHINES]")?;
    let machines: usize = arguments.next().map_or(Ok(2), |number| number.parse())?;

    // One machine boots; all others are forks of it that share golden memory and disk.
    let spec = SandboxSpec::new(ImageSource::directory(image));
    let first = KvmSandbox::new(spec, KvmConfig::default());
    first.boot()?;
    let pool = Pool::start(KvmSource::new(first)?, PoolConfig::new(machines))?;
    println!("{} machines are clean", pool.wait_until_warm(Duration::from_secs(60))?);

    thread::scope(|scope| {
        for caller in 0..machines {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..CALLS {
                    let params = json!({"message": format!("from caller {caller}")});
                    let params = params.as_object().cloned().unwrap_or_default();
                    let begun = Instant::now();
                    match pool.execute("a tenant", ToolCall::new("echo", params)) {
                        Ok(_) => println!("caller {caller}: {:.1?}", begun.elapsed()),
                        Err(error) => eprintln!("caller {caller}: {error}"),
                    }
                }
            });
        }
    });
    println!("{:?}", pool.metrics().counters);
    pool.shutdown();
    Ok(())
}
