//! All targets with libFuzzer around them. `BSM_FUZZ_TARGET` names the one to run,
//! `BSM_FUZZ_SEEDS` a directory that is filled with its seeds.
#![no_main]
#![allow(clippy::expect_used, reason = "without a target there is nothing to do")]

use std::sync::OnceLock;

use fuzz_targets::{PLANTED, TARGETS, Target, seeds};
use libfuzzer_sys::fuzz_target;

static CHOSEN: OnceLock<&Target> = OnceLock::new();

fn choose() -> &'static Target {
    let name = std::env::var("BSM_FUZZ_TARGET").expect("BSM_FUZZ_TARGET names a target");
    let mut known = TARGETS.iter().chain([&PLANTED]);
    known.find(|target| target.name == name).expect("there is such a target")
}

/// Before the engine looks into any directory.
fn begin() {
    let target = CHOSEN.get_or_init(choose);
    if target.name == PLANTED.name {
        return;
    }
    if let Some(directory) = std::env::var_os("BSM_FUZZ_SEEDS") {
        seeds::write(target.name, directory.as_ref()).expect("seeds can be read and written");
    }
}

fuzz_target!(
    init: begin(),
    |data: &[u8]| {
        (CHOSEN.get_or_init(choose).run)(data);
    }
);
