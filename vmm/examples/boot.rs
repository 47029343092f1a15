//! Boots a kernel with a disk and prints what the guest says, until the guest stops or a minute
//! has passed.
//!
//! ```text
//! cargo run --release -p vmm --example boot -- vmlinux rootfs.ext4 [MEMORY_MIB [VCPUS]]
//! ```

use std::error::Error;
use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use vmm::{DiskImage, KernelImage, Machine, MachineConfig};

const LIMIT: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(20);
const COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 reboot=t root=/dev/vda rootfstype=ext4 rw init=/sbin/init";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, disk, numbers @ ..] = arguments.as_slice() else {
        return Err("usage: boot KERNEL DISK [MEMORY_MIB [VCPUS]]".into());
    };
    let config = MachineConfig::builder(KernelImage::open(kernel.as_ref())?)
        .vcpus(numbers.get(1).map_or(Ok(1), |n| n.parse())?)
        .memory_mib(numbers.first().map_or(Ok(128), |n| n.parse())?)
        .cmdline(COMMAND_LINE)
        .disk(DiskImage::open(disk.as_ref())?)
        .console_bytes(1 << 20)
        .build()?;
    let machine = Machine::create(config)?;
    let started = Instant::now();
    machine.boot()?;

    let mut printed = 0;
    loop {
        let stopped = machine.wait_stopped(TICK);
        let console = machine.console().bytes;
        stdout().write_all(console.get(printed..).unwrap_or_default())?;
        stdout().flush()?;
        printed = console.len();
        if let Some(reason) = stopped {
            println!("\n{reason}, after {:?}; {:?}", started.elapsed(), machine.timings());
            return Ok(());
        }
        if started.elapsed() > LIMIT {
            println!("\nstill running: {:?}", machine.state()?);
            return Ok(());
        }
    }
}
