//! What it costs to spend a nonce and accept a command, durably, and what one flush of this disk
//! costs: the floor under it.
//!
//! `cargo run --release --example store_speed -- [DIRECTORY [COMMANDS [IN_FLIGHT]]]`

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brainstorm_agent::store::{Journal, NewCommand, NonceStore};
use protocol::Timestamp;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Commands of the measurement that does one after the other.
const ALONE: usize = 2000;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let commands = arguments.next().map_or(Ok(50_000), |text| text.parse())?;
    let in_flight = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let directory = parent.join(format!("store-speed-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let measured = measure(&directory, commands, in_flight);
    std::fs::remove_dir_all(&directory)?;
    measured
}

fn measure(directory: &Path, commands: usize, in_flight: usize) -> Outcome<()> {
    println!("{:<44} {:>7} {:>8} {:>8} {:>8} {:>8}", "ms", "n", "p50", "p90", "p99", "max");
    show("flush of 8 KiB written over old ones", flushes(directory, false)?);
    show("flush of 8 KiB written at the end", flushes(directory, true)?);

    let stores = Arc::new(Stores {
        nonces: NonceStore::open_anywhere(&directory.join("nonces.db"), 10_000_000)?,
        journal: Journal::open(&directory.join("journal.db"))?,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let alone = runtime.block_on(one_after_the_other(Arc::clone(&stores)))?;
    show("spend + accept, one after the other", alone);
    let start = Instant::now();
    let together = runtime.block_on(all_at_once(Arc::clone(&stores), commands, in_flight))?;
    let elapsed = start.elapsed().as_micros().max(1);
    show(&format!("spend + accept, {in_flight} in flight"), together);
    let per_second = commands as u128 * 1_000_000 / elapsed;
    println!("{in_flight} in flight: {per_second} commands a second");
    show("flush of 8 KiB written over old ones", flushes(directory, false)?);
    Ok(())
}

struct Stores {
    nonces: NonceStore,
    journal: Journal,
}

impl Stores {
    async fn take(&self) -> Outcome<Duration> {
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

async fn one_after_the_other(stores: Arc<Stores>) -> Outcome<Vec<Duration>> {
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
) -> Outcome<Vec<Duration>> {
    let taken = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (stores, taken) = (Arc::clone(&stores), Arc::clone(&taken));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while taken.fetch_add(1, Ordering::Relaxed) < commands {
                    took.push(stores.take().await?);
                }
                Outcome::Ok(took)
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
fn flushes(directory: &Path, growing: bool) -> Outcome<Vec<Duration>> {
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

fn show(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |percent: usize| {
        let rank = (took.len() * percent).div_ceil(100);
        took.get(rank.saturating_sub(1)).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    };
    println!(
        "{what:<44} {:>7} {:>8.3} {:>8.3} {:>8.3} {:>8.3}",
        took.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}
