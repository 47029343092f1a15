//! Hot pages: they stay writable, and every reset restores them.

use super::captured::{STRATEGIES, captured, run_a_while, run_and, with_disk};
use crate::integrity::{FindingSource, IntegrityPlan, Location};
use crate::kvm::raw;
use crate::machine::*;
use crate::memory::PAGE_BYTES;
use crate::snapshot::PageSet;

/// Pages that the guest writes to all the time.
const BUSY: u64 = 0x20_0000;
const BUSY_PAGES: usize = 64;

fn with_live<T>(machine: &Machine, look: impl FnOnce(&RunningMachine) -> T) -> T {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    look(live)
}

/// Has a machine work once and takes what it wrote for its hot pages.
fn learn(machine: &Machine) -> PageSet {
    run_a_while(machine);
    machine.reset(Strategy::CopyBack).unwrap();
    let hot = machine.last_reset_pages().unwrap();
    assert!(hot.len() >= BUSY_PAGES, "{}", hot.len());
    with_live(machine, |live| live.golden().unwrap().set_hot_pages(hot.clone()));
    hot
}

fn is_golden(machine: &Machine) {
    assert_eq!(machine.differences().unwrap().0, []);
    let report = machine.check_after_reset(&IntegrityPlan::default()).unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn a_machine_with_hot_pages_comes_back_bit_for_bit_and_so_do_its_forks() {
    for vcpus in [1, 2] {
        let machine = captured(MachineConfig { vcpus, ..with_disk() });
        learn(&machine);
        let golden = with_live(&machine, |live| live.golden().unwrap());
        let forks = [DirtyTracking::Log, DirtyTracking::Ring]
            .map(|tracking| Machine::fork_with(&golden, tracking).unwrap());
        let plan = IntegrityPlan::default();
        for mut machine in forks.into_iter().chain([machine]) {
            for strategy in STRATEGIES.into_iter().cycle().take(12) {
                run_and(&mut machine, &golden, |machine| machine.reset(strategy));
                is_golden(&machine);
                let (_, check) = run_and(&mut machine, &golden, |machine| {
                    machine.reset_and_check(strategy, &plan)
                });
                assert_eq!(check.unwrap().findings, []);
            }
        }
    }
}

#[test]
fn hot_pages_go_back_whether_they_were_written_or_not() {
    let machine = captured(with_disk());
    let hot = learn(&machine);
    // The log still has none of them: they are in it from their next write on.
    assert!(machine.reset(Strategy::CopyBack).unwrap().dirty_pages < BUSY_PAGES);
    run_a_while(&machine);
    machine.reset(Strategy::CopyBack).unwrap();
    for resets in 1..4 {
        let report = machine.reset(Strategy::CopyBack).unwrap();
        // A reset takes one of them out of the log, to have translations flushed.
        let pages = BUSY_PAGES - resets..=hot.len();
        assert!(pages.contains(&report.dirty_pages), "{report:?}");
        let back = machine.last_reset_pages().unwrap();
        assert_eq!(back.clone().intersection(&hot), back);
        is_golden(&machine);
    }
}

#[test]
fn a_second_set_of_hot_pages_changes_nothing() {
    let machine = captured(with_disk());
    let hot = learn(&machine);
    with_live(&machine, |live| {
        let golden = live.golden().unwrap();
        golden.set_hot_pages(PageSet::default());
        assert_eq!(golden.hot_pages(), Some(&hot));
    });
}

/// The time of the write to such a page is unknown: its content says that it is not as it was.
#[test]
fn what_is_written_after_a_reset_is_seen_in_a_hot_page_too() {
    let machine = captured(with_disk());
    learn(&machine);
    run_a_while(&machine);
    machine.reset(Strategy::CopyBack).unwrap();
    run_a_while(&machine);
    let findings = machine.check_after_reset(&IntegrityPlan::default()).unwrap().findings;
    let page = (FindingSource::Memory, Location::Page { address: BUSY });
    assert!(findings.iter().any(|f| (f.source, f.place.clone()) == page), "{findings:#?}");
}

#[test]
fn a_hot_page_that_fell_out_of_the_log_is_seen() {
    let machine = captured(with_disk());
    learn(&machine);
    run_a_while(&machine);
    machine.reset(Strategy::CopyBack).unwrap();
    run_a_while(&machine);
    let word = BUSY as usize / PAGE_BYTES / 64;
    with_live(&machine, |live| {
        let fd = live.core.vm.fd();
        let bytes = u64::from(live.golden().unwrap().memory_mib()) << 20;
        raw::clear_dirty_log(fd, 0, bytes, word, &[u64::MAX]).unwrap();
    });
    machine.reset(Strategy::CopyBack).unwrap();
    assert!(!machine.differences().unwrap().is_empty());
    let findings = machine.check_after_reset(&IntegrityPlan::default()).unwrap().findings;
    assert!(findings.iter().all(|f| f.source == FindingSource::Memory), "{findings:#?}");
    assert!(!findings.is_empty());
}

#[test]
fn on_a_kvm_that_forgets_its_log_when_it_is_read_no_page_becomes_hot() {
    for strategy in STRATEGIES {
        let machine = captured(with_disk());
        with_live(&machine, |live| {
            let mut resetter = live.core.resetter.lock().unwrap();
            resetter.as_mut().unwrap().dirty.manual_clear = Some(false);
        });
        learn(&machine);
        for _ in 0..3 {
            run_a_while(&machine);
            assert!(machine.reset(strategy).unwrap().dirty_pages >= BUSY_PAGES);
            is_golden(&machine);
            assert!(machine.reset(strategy).unwrap().dirty_pages < BUSY_PAGES);
            is_golden(&machine);
        }
    }
}

#[test]
fn no_more_of_the_log_is_forgotten_than_there_is() {
    let machine = captured(with_disk());
    learn(&machine);
    with_live(&machine, |live| {
        let bytes = u64::from(live.golden().unwrap().memory_mib()) << 20;
        let words = raw::dirty_words(bytes);
        let forget = |first, bitmap: &[u64]| {
            raw::clear_dirty_log(live.core.vm.fd(), 0, bytes, first, bitmap)
        };
        forget(words - 1, &[0]).unwrap();
        for (first, bitmap) in [(words, [0].as_slice()), (words - 1, &[0, 0]), (usize::MAX, &[0])] {
            let refused = forget(first, bitmap).unwrap_err().to_string();
            assert!(refused.contains("KVM_CLEAR_DIRTY_LOG"), "{refused}");
        }
    });
}
