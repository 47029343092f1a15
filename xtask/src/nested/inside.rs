//! The side inside the nested machine: runs the jobs that the host orders and reports.

mod idle;
mod in_use;
mod processes;
mod watch;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::in_use::InUse;
use self::watch::Port;
use super::execute::execute;
use super::job::Job;
use super::wire::{Message, Notice, Order};

/// Name of the virtio port to the host, as given to QEMU.
pub const PORT_NAME: &str = "results";
/// Where the kernel lists ports with their names.
const PORTS: &str = "/sys/class/virtio-ports";
/// The host names the port shortly after the driver has found the device.
const PORT_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at it.
const PORT_PAUSE: Duration = Duration::from_millis(20);

/// Runs the jobs of the file `jobs`. Whatever goes wrong once the port is open is reported
/// through it; an error comes back only where that was impossible.
pub fn run(jobs: &Path) -> Result<()> {
    let port = open_port()?;
    let orders = take_orders(port.try_clone().context("a second hold of the port")?)?;
    let port = Port::new(port);
    let prepared = InUse::start().and_then(|used| Ok((used, check_kvm()?, read_jobs(jobs)?)));
    let (_in_use, jobs) = match prepared {
        Ok((in_use, kvm, jobs)) => {
            notify(&port, Notice::Ready { kvm })?;
            (in_use, jobs)
        }
        Err(e) => return notify(&port, Notice::Unusable { why: format!("{e:#}") }),
    };
    watch::start(&port);
    while let Ok(Order::Run(index)) = orders.recv() {
        let index = usize::from(index);
        let job = jobs.get(index).with_context(|| format!("there is no job {index}"))?;
        notify(&port, Notice::Started { index })?;
        let mut lost = None;
        let finished = execute(job, |stream, bytes| {
            let message = Message::Output(stream, bytes.to_vec());
            if let Err(e) = port.send(&message) {
                lost = Some(e);
            }
        });
        if let Some(e) = lost {
            return Err(e).with_context(|| format!("output of {} was lost", job.label));
        }
        notify(&port, Notice::Finished { index, finished })?;
    }
    // The host ends the machine as soon as it receives `Done`.
    let _ = Command::new("sync").status().context("flushing files")?;
    notify(&port, Notice::Done)
}

/// What makes the machine worth its start: a KVM behind which a processor is.
fn check_kvm() -> Result<String> {
    let probe = vmm::probe().context("the nested machine offers no usable /dev/kvm")?;
    Ok(format!(
        "KVM API {}, 10 million guest loop iterations in {} ms",
        probe.api_version,
        probe.loop_us / 1000
    ))
}

fn read_jobs(path: &Path) -> Result<Vec<Job>> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).context("the list of jobs is damaged")
}

fn notify(port: &Port, notice: Notice) -> Result<()> {
    port.send(&Message::Notice(notice)).context("writing to the host")
}

fn open_port() -> Result<File> {
    let deadline = Instant::now() + PORT_LIMIT;
    loop {
        if let Some(device) = find_port() {
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&device)
                .with_context(|| format!("opening {}", device.display()));
        }
        if Instant::now() > deadline {
            bail!("no port named {PORT_NAME} in {PORTS}");
        }
        std::thread::sleep(PORT_PAUSE);
    }
}

/// Waits for the host's orders. Nudges are taken and dropped: they only wake this machine up, and a
/// kernel that wakes up looks at its timers.
fn take_orders(mut port: File) -> Result<Receiver<Order>> {
    let (sender, orders) = mpsc::channel();
    let take = move || {
        let (mut bytes, mut piece) = (Vec::new(), [0; 64]);
        while let Ok(length) = port.read(&mut piece) {
            // The driver does not know yet that the host listens.
            if length == 0 {
                std::thread::sleep(PORT_PAUSE);
            }
            bytes.extend(&piece[..length]);
            while let Ok(Some(order)) = Order::decode(&mut bytes) {
                if order != Order::Nudge && sender.send(order).is_err() {
                    // All jobs are over; nudges are still taken.
                    bytes.clear();
                }
            }
        }
    };
    std::thread::Builder::new().name("orders".into()).spawn(take).context("starting a thread")?;
    Ok(orders)
}

fn find_port() -> Option<PathBuf> {
    fs::read_dir(PORTS).ok()?.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim_end() == PORT_NAME).then(|| Path::new("/dev").join(port.file_name()))
    })
}
