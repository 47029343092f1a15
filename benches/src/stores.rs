//! A nonce spent and a command accepted, durably, beside one flush of this disk: the floor under it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use brainstorm_agent::bench::Report;
use brainstorm_agent::store::{Journal, NewCommand, NonceStore};
use protocol::Timestamp;

/// Commands of the measurement that does one after the other.
const ALONE: usize = 2000;

#[derive(clap::Args)]
pub struct Options {
    /// Where the stores are made; a directory on the disk to be measured
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// Commands of the measurement with many in flight
    #[arg(long, default_value_t = 50_000)]
    commands: usize,
    /// Commands in flight
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
}

/// Measures in a directory of its own, which is gone afterwards.
pub fn measure(options: &Options) -> Result<Report> {
    let directory = options.directory.join(format!("bench-stores-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let measured = measure_in(&directory, options.commands, options.in_flight);
    std::fs::remove_dir_all(&directory)?;
    measured
}

fn measure_in(directory: &Path, commands: usize, in_flight: usize) -> Result<Report> {
    const OVER: &str = "flush of 8 KiB written over old ones";
    let mut report = Report::new("stores");
    report.add(format!("{OVER}, before"), &flushes(directory, false)?, None);
    report.add("flush of 8 KiB written at the end", &flushes(directory, true)?, None);

    let stores = Arc::new(Stores {
        nonces: NonceStore::open_anywhere(&directory.join("nonces.db"), 10_000_000)?,
        journal: Journal::open(&directory.join("journal.db"))?,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let alone = runtime.block_on(one_after_the_other(Arc::clone(&stores)))?;
    report.add("spend and accept, one after the other", &alone, None);
    let start = Instant::now();
    let together = runtime.block_on(all_at_once(Arc::clone(&stores), commands, in_flight))?;
    let elapsed = start.elapsed().as_secs_f64();
    report.add(format!("spend and accept, {in_flight} in flight"), &together, None);
    report.value("spend and accept", commands as f64 / elapsed, "commands/s", None);
    report.add(format!("{OVER}, after"), &flushes(directory, false)?, None);
    Ok(report)
}

struct Stores {
    nonces: NonceStore,
    journal: Journal,
}

impl Stores {
    async fn take(&self) -> Result<Duration> {
        let id = uuid::Uuid::new_v4().to_string();
        let nonce = format!("{id}0123456");
        let now = Timestamp::now();
        let command = NewCommand {
            command_id: id.clone(),
            tenant_id: "6e5b2e09-42f7-474d-a196-14a731771b84".to_owned(),
            tool: "echo".to_owned(),
            correlation_id: "corr-0001".to_owned(),
            operator_id: "operator@local".to_owned(),
            accepted_at: now,
        };
        let start = Instant::now();
        self.nonces.spend(&nonce, &id, now.plus_millis(300_000), now).await?;
        self.journal.accept(command).await?;
        Ok(start.elapsed())
    }
}

async fn one_after_the_other(stores: Arc<Stores>) -> Result<Vec<Duration>> {
    // As commands are taken: by a task of the runtime.
    tokio::spawn(async move {
        let mut took = Vec::with_capacity(ALONE);
        for _ in 0..ALONE {
            took.push(stores.take().await?);
        }
        Ok(took)
    })
    .await?
}

async fn all_at_once(
    stores: Arc<Stores>,
    commands: usize,
    in_flight: usize,
) -> Result<Vec<Duration>> {
    let taken = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (stores, taken) = (Arc::clone(&stores), Arc::clone(&taken));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while taken.fetch_add(1, Ordering::Relaxed) < commands {
                    took.push(stores.take().await?);
                }
                anyhow::Ok(took)
            })
        })
        .collect();
    let mut took = Vec::with_capacity(commands);
    for caller in callers {
        took.extend(caller.await??);
    }
    Ok(took)
}

/// What a durable write costs without any database.
fn flushes(directory: &Path, growing: bool) -> Result<Vec<Duration>> {
    const PAGE: [u8; 8192] = [0x5a; 8192];
    const COUNT: u64 = 1000;
    let file = File::create(directory.join("flushes"))?;
    if !growing {
        file.write_all_at(&vec![0; PAGE.len() * COUNT as usize], 0)?;
        file.sync_all()?;
    }
    (0..COUNT)
        .map(|number| {
            let start = Instant::now();
            file.write_all_at(&PAGE, number * PAGE.len() as u64)?;
            file.sync_data()?;
            Ok(start.elapsed())
        })
        .collect()
}
