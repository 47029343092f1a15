//! Much of everything: bells, interrupts, console, and no end of it.

use std::thread::sleep;
use std::time::Duration;

use super::guest::Step;
use super::rings::{self, Device};
use super::stage::Fate::Works;
use super::stage::Stage;
use crate::machine::tests::captured::STRATEGIES;
use crate::machine::{MachineState, Strategy};

const MANY: u64 = 100_000;

#[test]
fn a_hundred_thousand_bells() {
    let mut stage = Stage::new();
    for device in Device::ALL {
        let steps = [device.notify(), Step::Repeat(0, MANY / 3)];
        stage.suffer("bells for nothing", device, &steps, Works);
    }
}

#[test]
fn interrupts_nobody_answers_and_answers_to_no_interrupt() {
    let mut stage = Stage::new();
    let device = Device::Entropy;
    let mut steps = stage.offer(device, &rings::good(device));
    steps.push(Step::Repeat(0, MANY / 5));
    stage.suffer("an interrupt for each of many requests", device, &steps, Works);
    for device in Device::ALL {
        let answer = Step::Put32(device.register(0x064), u32::MAX);
        stage.suffer("many answers", device, &[answer, Step::Repeat(0, MANY / 10)], Works);
    }
}

#[test]
fn a_console_that_never_stops_keeps_its_newest_bytes_only() {
    let mut stage = Stage::new();
    let steps = [Step::Out(0x3f8, b'#'), Step::Repeat(0, MANY / 4)];
    stage.suffer("a console flood", Device::Disk, &steps, Works);
    assert!(stage.machine().console().bytes.len() <= 1024);
}

/// Requests of every device without end, each answered.
fn endless(stage: &Stage) -> Vec<Step> {
    stage.put(rings::HEADER, &rings::disk_header(rings::READ, 1));
    let mut steps: Vec<Step> = [Device::Disk, Device::Entropy]
        .into_iter()
        .flat_map(|device| stage.offer(device, &rings::good(device)))
        .collect();
    steps.push(Step::Put32(Device::Sockets.register(0x050), 1));
    steps.push(Step::Repeat(0, u64::MAX));
    steps
}

#[test]
fn a_flood_without_end_stops_when_it_is_told_to_and_holds_nobody_up() {
    let stage = Stage::new();
    let neighbour = stage.beside();
    stage.let_run(&endless(&stage));
    neighbour.assert_healthy("beside a flood");
    neighbour.come_back("beside a flood");
    assert!(matches!(stage.machine().state().unwrap(), MachineState::Running(_)));
    stage.machine().pause().unwrap();
    assert!(stage.read16(Device::Disk.requests().used + 2) > 0, "it was no flood");
    stage.come_back("a flood");
}

/// What a device was at when the machine was reset must not reach into the state after it.
#[test]
fn resets_with_requests_on_their_way_leave_nothing_of_them() {
    let stage = Stage::new();
    for strategy in STRATEGIES {
        for _ in 0..25 {
            stage.let_run(&endless(&stage));
            sleep(Duration::from_millis(2));
            stage.machine().reset(strategy).unwrap();
            stage.machine().pause().unwrap();
            stage.machine().reset(Strategy::CopyBack).unwrap();
            assert_eq!(stage.differences(), [], "{}", strategy.name());
        }
        stage.come_back(strategy.name());
    }
}
