//! The agent with everything real, and somebody on its host who changes machines behind its back.
//!
//! `agent-to-tamper CONFIG IMAGE_DIR DIR`. When a machine is verified, DIR is looked at for a file
//! `tamper`: the name of what is changed this once. The file is removed then.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's tool fails loudly"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brainstorm_agent::config::Config;
use brainstorm_agent::dispatch::executor::{PoolExecutor, Tools};
use brainstorm_agent::service::ServiceError;
use integration_tests::agent_process::{begin, give_up, lay_groundwork};
use sandbox::pool::{KvmSource, OnFault, Pool, PoolConfig};
use sandbox::{ImageSource, KvmSandbox, Moment, Sandbox, SandboxConfig};
use vmm::{Machine, Tamper};

/// RAM that the guest has no use for.
const FAR: u64 = 100 << 20;

/// What is done to a machine.
type Deed = fn(&Machine);

/// What a file may ask for: a name, when it is done, and what.
const DEEDS: &[(&str, Moment, Deed)] = &[
    ("overlay", Moment::Held, |machine| {
        let block = clean_block(machine);
        machine.write_disk(block * 4096, &[7; 4096]).unwrap();
        machine.tamper(Tamper::Overlay { block }).unwrap();
    }),
    ("base", Moment::Held, |machine| {
        machine.tamper(Tamper::Base { block: clean_block(machine) }).unwrap();
    }),
    ("clean-page", Moment::PutBack, |machine| {
        machine.tamper(Tamper::CleanPage { address: FAR }).unwrap();
    }),
    ("restored-page", Moment::PutBack, |machine| machine.tamper(Tamper::RestoredPage).unwrap()),
    ("hide-dirty-page", Moment::Held, |machine| {
        machine.tamper(Tamper::HideDirtyPage { address: FAR }).unwrap();
    }),
    ("register", Moment::PutBack, |machine| machine.tamper(Tamper::Register).unwrap()),
    ("msr", Moment::PutBack, |machine| machine.tamper(Tamper::Msr).unwrap()),
    ("interrupt-controller", Moment::PutBack, |machine| {
        machine.tamper(Tamper::InterruptController).unwrap();
    }),
    ("queue-index", Moment::PutBack, |machine| machine.tamper(Tamper::QueueIndex).unwrap()),
    ("pause", Moment::Running, |machine| machine.pause().unwrap()),
];

fn clean_block(machine: &Machine) -> u64 {
    let dirty = machine.dirty_blocks().unwrap();
    (0..1024).find(|block| !dirty.contains(block)).unwrap()
}

fn main() {
    let (config, arguments) = begin();
    let [image, dir] = arguments.as_slice() else { panic!("agent-to-tamper CONFIG IMAGE_DIR DIR") };
    let image = ImageSource::directory(image);
    let config =
        Config { sandbox: SandboxConfig { image, verify: true, ..config.sandbox }, ..config };
    serve(config, Path::new(dir)).unwrap_or_else(|error| give_up(&error));
}

/// What `brainstorm-agent run` does, with one machine.
fn serve(config: Config, dir: &Path) -> Result<(), ServiceError> {
    let sandbox = config.sandbox.clone();
    let groundwork = lay_groundwork(config);
    let manifest = sandbox.image.manifest().unwrap().expect("the image has no manifest");
    let tools = Tools::new(&manifest, &sandbox.enable_tools).unwrap();
    let sandbox = KvmSandbox::new(sandbox);
    sandbox.guard_with(Arc::clone(&groundwork.degraded) as _);
    sandbox.boot().unwrap();
    let mut attack = Attack { order: dir.join("tamper"), pending: None };
    sandbox.let_meddle(Box::new(move |moment, machine| attack.meddle(moment, machine)));
    // The one that was booted becomes the only machine, until it is replaced.
    let source = KvmSource::new(sandbox).unwrap();
    let config = PoolConfig { on_fault: OnFault::Halt, ..PoolConfig::new(1) };
    let pool = Pool::start(source, config).unwrap();
    groundwork.serve(Arc::new(PoolExecutor::new(pool, tools)), None)
}

struct Attack {
    order: PathBuf,
    pending: Option<(Moment, Deed)>,
}

impl Attack {
    fn meddle(&mut self, moment: Moment, machine: &Machine) {
        if moment == Moment::Held
            && let Ok(name) = fs::read_to_string(&self.order)
        {
            fs::remove_file(&self.order).unwrap();
            let deed = DEEDS.iter().find(|(known, ..)| *known == name.trim());
            let (name, when, deed) = deed.unwrap_or_else(|| panic!("what is {name}?"));
            eprintln!("a machine is tampered with: {name}");
            self.pending = Some((*when, *deed));
        }
        if let Some((_, deed)) = self.pending.take_if(|(when, _)| *when == moment) {
            deed(machine);
        }
    }
}
