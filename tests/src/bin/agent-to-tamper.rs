//! The agent with everything real, and a hand on its host that changes machines behind its back.
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

use brainstorm_agent::commands::executor::{PoolExecutor, Tools};
use brainstorm_agent::config::Config;
use brainstorm_agent::service::ServiceError;
use integration_tests::agent_process::{acquire_prerequisites, begin, give_up};
use sandbox::KvmSource;
use sandbox::pool::{OnFault, Pool, PoolConfig};
use sandbox::{FaultPoint, ImageSource, KvmSandbox, Resets, Sandbox, SandboxSpec};
use vmm::{Machine, Tamper};

/// RAM that the guest has no use for.
const FAR: u64 = 100 << 20;

/// What is done to a machine.
type Deed = fn(&Machine);

/// What a file may ask for: a name, when it is done, and what.
const DEEDS: &[(&str, FaultPoint, Deed)] = &[
    ("overlay", FaultPoint::Held, |machine| {
        let block = clean_block(machine);
        machine.write_disk(block * 4096, &[7; 4096]).unwrap();
        machine.tamper(Tamper::Overlay { block }).unwrap();
    }),
    ("base", FaultPoint::Held, |machine| {
        machine.tamper(Tamper::Base { block: clean_block(machine) }).unwrap();
    }),
    ("clean-page", FaultPoint::Reset, |machine| {
        machine.tamper(Tamper::CleanPage { address: FAR }).unwrap();
    }),
    ("restored-page", FaultPoint::Reset, |machine| machine.tamper(Tamper::RestoredPage).unwrap()),
    ("hide-dirty-page", FaultPoint::Held, |machine| {
        machine.tamper(Tamper::HideDirtyPage { address: FAR }).unwrap();
    }),
    ("register", FaultPoint::Reset, |machine| machine.tamper(Tamper::Register).unwrap()),
    ("msr", FaultPoint::Reset, |machine| machine.tamper(Tamper::Msr).unwrap()),
    ("interrupt-controller", FaultPoint::Reset, |machine| {
        machine.tamper(Tamper::InterruptController).unwrap();
    }),
    ("queue-index", FaultPoint::Reset, |machine| machine.tamper(Tamper::QueueIndex).unwrap()),
    ("pause", FaultPoint::Running, |machine| machine.pause().unwrap()),
];

fn clean_block(machine: &Machine) -> u64 {
    let dirty = machine.dirty_blocks().unwrap();
    (0..1024).find(|block| !dirty.contains(block)).unwrap()
}

fn main() {
    let (config, arguments) = begin();
    let [image, dir] = arguments.as_slice() else { panic!("agent-to-tamper CONFIG IMAGE_DIR DIR") };
    let image = ImageSource::directory(image);
    let sandbox = SandboxSpec { image, resets: Resets::Verified, ..config.sandbox };
    let config = Config { sandbox, ..config };
    serve(config, Path::new(dir)).unwrap_or_else(|error| give_up(&error));
}

/// What `brainstorm-agent run` does, with one machine.
fn serve(config: Config, dir: &Path) -> Result<(), ServiceError> {
    let (spec, kvm) = (config.sandbox.clone(), config.kvm.clone());
    let prerequisites = acquire_prerequisites(config);
    let manifest = spec.image.manifest().unwrap().expect("the image has no manifest");
    let tools = Tools::new(&manifest, &spec.enable_tools).unwrap();
    let sandbox = KvmSandbox::new(spec, kvm);
    sandbox.set_incident_handler(Arc::clone(&prerequisites.degraded) as _);
    sandbox.boot().unwrap();
    let mut attack = Attack { order: dir.join("tamper"), pending: None };
    sandbox.inject_faults(Box::new(move |moment, machine| attack.meddle(moment, machine)));
    // The one that was booted becomes the only machine, until it is replaced.
    let source = KvmSource::new(sandbox).unwrap();
    let config = PoolConfig { on_fault: OnFault::Halt, ..PoolConfig::new(1) };
    let pool = Pool::start(source, config).unwrap();
    prerequisites.serve(Arc::new(PoolExecutor::new(pool, tools)), None)
}

struct Attack {
    order: PathBuf,
    pending: Option<(FaultPoint, Deed)>,
}

impl Attack {
    fn meddle(&mut self, moment: FaultPoint, machine: &Machine) {
        if moment == FaultPoint::Held
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
