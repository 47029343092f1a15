//! Machines that check themselves, and lies that their checks must see, each one bit or byte.

use std::thread::sleep;
use std::time::Duration;

use super::broken_reset::{Sabotage, sabotage};
use super::captured::{STRATEGIES, captured, run_a_while, with_disk, write_disk};
use super::tiny_guest::{SPIN, config, machine};
use crate::arch::layout;
use crate::devices::block::DiskImage;
use crate::integrity::{Finding, FindingSource, IntegrityPlan, IntegrityReport, Location, Tamper};
use crate::machine::*;
use crate::memory::PAGE_BYTES;

/// A page that no guest here writes to.
const CLEAN: u64 = 0x28_0000;
/// A page that the guest writes to all the time.
const BUSY_PAGE: u64 = 0x20_0000;
const RINGS: u64 = 0x30_0000;

fn golden(machine: &Machine) -> Arc<Golden> {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    live.golden().unwrap()
}

fn check(machine: &Machine) -> IntegrityReport {
    machine.check_after_reset(&IntegrityPlan::default()).unwrap()
}

fn run_for(machine: &Machine, time: Duration) {
    machine.resume().unwrap();
    sleep(time);
    machine.pause().unwrap();
}

fn reset(machine: &Machine) {
    machine.reset(Strategy::CopyBack).unwrap();
}

/// A captured machine that has been working, and was checked and reset.
fn used() -> Machine {
    let machine = captured(with_disk());
    run_a_while(&machine);
    write_disk(&machine);
    assert_eq!(machine.check_before_reset().unwrap(), []);
    reset(&machine);
    assert_eq!(check(&machine).findings, []);
    machine
}

/// The one finding that there has to be.
fn only(findings: &[Finding]) -> &Finding {
    let [finding] = findings else { panic!("{findings:#?}") };
    assert_ne!(finding.was, finding.is);
    finding
}

fn place(finding: &Finding) -> (FindingSource, Location) {
    (finding.source, finding.place.clone())
}

fn in_state(part: &str) -> (FindingSource, Location) {
    (FindingSource::Vmm, Location::State { name: part.to_owned() })
}

fn on_disk(block: u64) -> (FindingSource, Location) {
    (FindingSource::Disk, Location::Block { number: block })
}

fn in_memory(address: u64) -> (FindingSource, Location) {
    (FindingSource::Memory, Location::Page { address })
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let machine = captured(MachineConfig { vcpus: 2, ..with_disk() });
    let root = golden(&machine).disk_root().unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for (cycle, strategy) in STRATEGIES.into_iter().cycle().take(400).enumerate() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        run_for(&machine, Duration::from_micros(seed >> 54));
        {
            let phase = machine.lock();
            let Phase::Paused(live) = &*phase else { panic!() };
            let mut disk = live.core.devices.block().unwrap();
            let start = (seed >> 20) % (60 << 10);
            disk.overlay_mut()
                .write(start, &vec![cycle as u8; (seed >> 40) as usize % 4096])
                .unwrap();
            disk.overlay_mut().read_checked(0..64 << 10).unwrap();
        }
        assert_eq!(machine.check_before_reset().unwrap(), [], "cycle {cycle}");
        machine.reset(strategy).unwrap();
        let plan = IntegrityPlan { deep: cycle % 50 == 0, ..IntegrityPlan::default() };
        let report = machine.check_after_reset(&plan).unwrap();
        assert_eq!(report.findings, [], "{} cycle {cycle}", strategy.name());
        assert_eq!(report.disk_root, root);
        assert_eq!(machine.scrub(&plan).unwrap().findings, []);
        run_for(&machine, Duration::from_micros(seed >> 56));
        let report = machine.reset_and_check(strategy, &plan).unwrap().1.unwrap();
        assert_eq!(report.findings, [], "{} cycle {cycle}", strategy.name());
    }
    assert_eq!(machine.differences().unwrap().0, []);
}

#[test]
fn a_byte_flipped_in_the_overlay_is_seen_before_it_is_gone() {
    let machine = used();
    write_disk(&machine);
    assert_eq!(machine.dirty_blocks().unwrap(), [1, 2]);
    machine.tamper(Tamper::Overlay { block: 2 }).unwrap();
    let findings = machine.check_before_reset().unwrap();
    assert_eq!(place(only(&findings)), on_disk(2));
    assert!(findings[0].was.starts_with("sha256:"), "{}", findings[0]);
    // What is to be saved is still there.
    let mut content = [0; 4096];
    machine.read_disk(8192, &mut content).unwrap();
    assert_eq!(content[..3], [0, 1, 1]);
    assert!(machine.read_disk(64 << 10, &mut content).is_err());
    reset(&machine);
    assert_eq!(check(&machine).findings, []);
    assert_eq!(machine.check_before_reset().unwrap(), []);
}

#[test]
fn a_byte_flipped_in_a_clean_block_is_seen_before_and_after() {
    let machine = used();
    machine.tamper(Tamper::Base { block: 9 }).unwrap();
    assert_eq!(place(only(&machine.check_before_reset().unwrap())), on_disk(9));
    reset(&machine);
    let report = check(&machine);
    assert_eq!(place(only(&report.findings)), on_disk(9));
    let mut bytes = vec![7; 64 << 10];
    bytes[9 * 4096] ^= 1;
    let root = DiskImage::from_bytes(&bytes).unwrap().root().unwrap();
    assert_eq!(report.disk_root, Some(root), "the root is that of what is there");
}

#[test]
fn a_refused_read_is_told_of_once() {
    let machine = used();
    machine.tamper(Tamper::Base { block: 3 }).unwrap();
    {
        let phase = machine.lock();
        let Phase::Paused(live) = &*phase else { panic!() };
        let mut disk = live.core.devices.block().unwrap();
        assert!(disk.overlay_mut().read_checked(3 * 4096..3 * 4096 + 512).is_err());
        // Gone before a check looks: only the guest's request has met it.
        disk.overlay_mut().mapping_mut().revert(0..64 << 10).unwrap();
    }
    assert_eq!(place(only(&machine.check_before_reset().unwrap())), on_disk(3));
    assert_eq!(machine.check_before_reset().unwrap(), []);
}

#[test]
fn what_a_reset_forgets_on_disk_is_seen_after_it() {
    let machine = used();
    write_disk(&machine);
    sabotage(&machine, Some(Sabotage::SkipDisk));
    reset(&machine);
    let report = check(&machine);
    let places: Vec<_> = report.findings.iter().map(place).collect();
    assert_eq!(places, [on_disk(1), on_disk(2)]);
    assert_ne!(report.disk_root, golden(&machine).disk_root().unwrap());
}

#[test]
fn a_flipped_byte_in_memory_is_seen_whoever_missed_it() {
    let at = |page: u64, offset: u64| (page + offset, in_memory(page));
    let lies = [
        (Tamper::CleanPage { address: at(CLEAN, 77).0 }, at(CLEAN, 77).1),
        (Tamper::HideDirtyPage { address: CLEAN + 4095 }, in_memory(CLEAN)),
        (Tamper::HideDirtyPage { address: BUSY_PAGE + 1 }, in_memory(BUSY_PAGE)),
    ];
    for (lie, expected) in lies {
        for strategy in STRATEGIES {
            let machine = used();
            machine.reset(strategy).unwrap();
            machine.tamper(lie).unwrap();
            assert_eq!(place(only(&check(&machine).findings)), expected, "{lie:?}");
            assert_eq!(machine.check_before_reset().unwrap(), []);
        }
    }
}

/// Made before the reset, by something that no log sees.
#[test]
fn a_page_that_the_log_missed_is_seen_after_the_reset() {
    for address in [CLEAN + 5, BUSY_PAGE + (70 << 12)] {
        let machine = used();
        run_a_while(&machine);
        machine.tamper(Tamper::HideDirtyPage { address }).unwrap();
        reset(&machine);
        let page = address & !(PAGE_BYTES as u64 - 1);
        let findings = check(&machine).findings;
        assert_eq!(place(only(&findings)), in_memory(page));
        assert!(findings[0].is.contains(&format!("{:#x}", address - page)), "{}", findings[0]);
        let mut byte = [0];
        machine.read_memory(address, &mut byte).unwrap();
        assert_eq!(byte, [1]);
        machine.reset(Strategy::FullCopy).unwrap();
        assert_eq!(check(&machine).findings, []);
    }
}

#[test]
fn a_page_changed_after_it_was_put_back_is_seen() {
    for strategy in STRATEGIES {
        let machine = used();
        run_a_while(&machine);
        machine.reset(strategy).unwrap();
        machine.tamper(Tamper::RestoredPage).unwrap();
        let findings = check(&machine).findings;
        assert!(matches!(place(only(&findings)), (FindingSource::Memory, Location::Page { .. })));
    }
    let machine = used();
    run_a_while(&machine);
    sabotage(&machine, Some(Sabotage::SkipPage));
    reset(&machine);
    assert_eq!(only(&check(&machine).findings).source, FindingSource::Memory);
}

/// Too many copies for one check, and one bad one among them.
#[test]
fn a_page_among_many_copies_is_seen_in_time() {
    let machine = used();
    machine.reset(Strategy::FullCopy).unwrap();
    machine.tamper(Tamper::CleanPage { address: CLEAN }).unwrap();
    let plan = IntegrityPlan { copies: 2000, ..IntegrityPlan::default() };
    let seen = (0..9).any(|_| !machine.check_after_reset(&plan).unwrap().findings.is_empty());
    assert!(seen);
    let deep = machine.check_after_reset(&IntegrityPlan::deep()).unwrap();
    assert_eq!(place(only(&deep.findings)), in_memory(CLEAN));
}

#[test]
fn golden_memory_that_is_not_what_it_was_is_seen_in_time() {
    let machine = used();
    let golden = golden(&machine);
    golden.memory_root().unwrap();
    // A page that holds something: the guest's code.
    let address = 0x10_0003;
    machine.tamper(Tamper::Golden { address }).unwrap();
    let plan = IntegrityPlan::default();
    let (_, resets) = plan.resets_for_all(&golden);
    let seen = (0..resets).find_map(|cycle| {
        reset(&machine);
        let found = check(&machine).findings;
        (!found.is_empty()).then_some((cycle, found))
    });
    let (_, found) = seen.expect("seen in time");
    let page = Location::GoldenPage { address: 0x10_0000 };
    assert!(
        found.iter().any(|f| (f.source, &f.place) == (FindingSource::Memory, &page)),
        "{found:?}"
    );
    let deep = machine.check_after_reset(&IntegrityPlan::deep()).unwrap();
    assert!(deep.findings.iter().any(|finding| finding.place == page));
    // Scrubbing meets it too, in a fork and while it runs.
    let fork = Machine::fork(&golden).unwrap();
    fork.resume().unwrap();
    let found = fork.scrub(&IntegrityPlan::deep()).unwrap().findings;
    assert_eq!(only(&found).place, page);
}

#[test]
fn a_flipped_bit_of_state_is_seen_and_named() {
    let lies = [
        (Tamper::Register, "vCPU 0: registers", "rbx"),
        (Tamper::Msr, "vCPU 0: MSR 0xc0000102", "0x"),
        (Tamper::InterruptController, "I/O APIC", "byte"),
    ];
    for vcpus in [1, 2] {
        let machine = captured(MachineConfig { vcpus, ..with_disk() });
        for (lie, part, words) in &lies {
            run_a_while(&machine);
            reset(&machine);
            machine.tamper(*lie).unwrap();
            let findings = check(&machine).findings;
            assert_eq!(place(only(&findings)), in_state(part));
            assert!(findings[0].is.contains(words), "{}", findings[0]);
            reset(&machine);
            assert_eq!(check(&machine).findings, [], "{lie:?} was not restored");
        }
    }
}

/// Does what the guest's driver would have done with the first device.
fn activate_disk(machine: &Machine) {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    let set = |register: u64, value: u64| {
        live.core
            .devices
            .bus
            .mmio_write(layout::VIRTIO_MMIO + register, &(value as u32).to_le_bytes());
    };
    for (register, value) in [
        (0x70, 1),
        (0x70, 3),
        (0x24, 1),
        (0x20, 1),
        (0x70, 11),
        (0x30, 0),
        (0x38, 16),
        (0x80, RINGS),
        (0x90, RINGS + 0x1000),
        (0xa0, RINGS + 0x2000),
        (0x44, 1),
        (0x70, 15),
    ] {
        set(register, value);
    }
}

#[test]
fn a_moved_queue_is_seen() {
    let machine = Machine::create(with_disk()).unwrap();
    machine.boot_paused().unwrap();
    assert!(machine.tamper(Tamper::QueueIndex).is_err(), "there is none yet");
    activate_disk(&machine);
    machine.capture().unwrap();
    run_a_while(&machine);
    reset(&machine);
    assert_eq!(check(&machine).findings, []);
    machine.tamper(Tamper::QueueIndex).unwrap();
    let findings = check(&machine).findings;
    let device = findings.iter().find(|finding| place(finding) == in_state("device block"));
    assert!(device.is_some_and(|finding| finding.is == "next_avail: 0x1"), "{findings:?}");
    assert!(findings.iter().all(|finding| finding.source == FindingSource::Vmm));
    reset(&machine);
    assert_eq!(check(&machine).findings, []);
}

#[test]
fn a_reset_and_its_check_in_one_see_what_they_see_apart() {
    for vcpus in [1, 2] {
        let machine = captured(MachineConfig { vcpus, ..with_disk() });
        let with = |strategy| machine.reset_and_check(strategy, &IntegrityPlan::default());
        let together = || with(Strategy::CopyBack);
        for how in [
            Sabotage::SkipVcpus,
            Sabotage::SkipDevices,
            Sabotage::SkipVm,
            Sabotage::SkipDisk,
            Sabotage::SkipPage,
        ] {
            run_a_while(&machine);
            write_disk(&machine);
            super::captured::disturb(&machine);
            sabotage(&machine, Some(how));
            assert!(!together().unwrap().1.unwrap().findings.is_empty(), "{how:?}");
            sabotage(&machine, None);
            // A page that was skipped is in no log any more.
            assert_eq!(with(Strategy::FullCopy).unwrap().1.unwrap().findings, []);
        }
        sabotage(&machine, Some(Sabotage::Fail));
        assert!(matches!(together(), Err(MachineError::Reset(_))));
        assert!(matches!(machine.state().unwrap(), MachineState::Poisoned(_)));
        assert!(matches!(together(), Err(MachineError::WrongState { .. })));
        sabotage(&machine, None);
        reset(&machine);
        assert_eq!(together().unwrap().1.unwrap().findings, []);
    }
}

#[test]
fn what_a_broken_reset_leaves_is_found() {
    let machine = captured(with_disk());
    for how in [Sabotage::SkipVcpus, Sabotage::SkipDevices, Sabotage::SkipVm] {
        run_a_while(&machine);
        super::captured::disturb(&machine);
        sabotage(&machine, Some(how));
        reset(&machine);
        let findings = check(&machine).findings;
        assert!(!findings.is_empty(), "{how:?}");
        assert!(
            findings.iter().all(|finding| finding.source == FindingSource::Vmm),
            "{findings:?}"
        );
        sabotage(&machine, None);
        reset(&machine);
        assert_eq!(check(&machine).findings, []);
    }
}

#[test]
fn a_page_written_after_the_reset_is_found() {
    let machine = used();
    {
        let phase = machine.lock();
        let Phase::Paused(live) = &*phase else { panic!("not paused") };
        let at = vm_memory::GuestAddress(CLEAN + 10);
        vm_memory::Bytes::write_slice(live.core.vm.ram().as_ref(), &[0; 5000], at).unwrap();
    }
    let findings = check(&machine).findings;
    assert_eq!(place(only(&findings)), in_memory(CLEAN));
    assert!(findings[0].is.contains("2 that were"), "{}", findings[0]);
}

#[test]
fn a_guest_that_ran_is_not_scrubbed_as_if_it_had_not() {
    let machine = used();
    run_a_while(&machine);
    assert_eq!(machine.scrub(&IntegrityPlan::deep()).unwrap().findings, []);
    reset(&machine);
    machine.tamper(Tamper::CleanPage { address: 0x10_0000 }).unwrap();
    let found = machine.scrub(&IntegrityPlan::deep()).unwrap().findings;
    assert_eq!(place(only(&found)), in_memory(0x10_0000));
}

#[test]
fn forks_share_hashes_and_go_their_own_way_round() {
    let first = used();
    let golden = golden(&first);
    let forks: Vec<_> = (0..3).map(|_| Machine::fork(&golden).unwrap()).collect();
    for fork in &forks {
        run_a_while(fork);
        reset(fork);
        assert_eq!(check(fork).findings, []);
    }
    forks[0].tamper(Tamper::Base { block: 4 }).unwrap();
    forks[1].tamper(Tamper::CleanPage { address: CLEAN }).unwrap();
    assert_eq!(place(only(&check(&forks[0]).findings)), on_disk(4));
    assert_eq!(place(only(&check(&forks[1]).findings)), in_memory(CLEAN));
    assert_eq!(check(&forks[2]).findings, []);
    assert_eq!(check(&first).findings, []);
}

#[test]
fn checks_at_the_wrong_time_are_typed_errors() {
    let machine = machine(&SPIN);
    let plan = IntegrityPlan::default();
    assert!(matches!(machine.check_before_reset(), Err(MachineError::WrongState { .. })));
    machine.boot().unwrap();
    assert!(matches!(machine.check_after_reset(&plan), Err(MachineError::WrongState { .. })));
    assert!(matches!(machine.scrub(&plan), Err(MachineError::NotCaptured)));
    machine.pause().unwrap();
    assert!(matches!(machine.check_after_reset(&plan), Err(MachineError::NotCaptured)));
    assert!(matches!(machine.check_before_reset(), Err(MachineError::NotCaptured)));
    machine.capture().unwrap();
    assert_eq!(machine.check_before_reset().unwrap(), []);
    let report = check(&machine);
    assert_eq!((report.findings.as_slice(), report.disk_root), ([].as_slice(), None));
    assert!(machine.read_disk(0, &mut [0]).is_err());
    assert!(machine.read_memory(64 << 20, &mut [0]).is_err());
}

#[test]
fn the_plan_says_when_everything_was_read() {
    let machine = captured(MachineConfig {
        disk: Some(Arc::new(DiskImage::from_bytes(&vec![7; 1 << 20]).unwrap())),
        ..config(&SPIN)
    });
    let golden = golden(&machine);
    let plan = IntegrityPlan { blocks: 16, ..IntegrityPlan::default() };
    assert_eq!(plan.resets_for_all(&golden).0, 256 / 16 + 1);
    assert_eq!(IntegrityPlan::deep().resets_for_all(&golden), (1, 1));
    let never = IntegrityPlan { blocks: 0, pages: 0, ..plan };
    assert_eq!(never.resets_for_all(&golden), (usize::MAX, usize::MAX));
}

/// A check that cannot be made is reported.
#[test]
fn a_report_says_whether_page_tables_were_read() {
    let machine = captured(config(&SPIN));
    assert!(check(&machine).page_tables);
    assert!(machine.scrub(&IntegrityPlan::default()).unwrap().page_tables);
    {
        let phase = machine.lock();
        let Phase::Paused(live) = &*phase else { panic!("not paused") };
        live.core.checker().forget_page_tables();
    }
    assert!(!check(&machine).page_tables);
    assert!(!machine.scrub(&IntegrityPlan::default()).unwrap().page_tables);
}
