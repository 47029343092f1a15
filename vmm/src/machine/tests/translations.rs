//! Every reset has the guest's translations flushed: its page tables went back behind the
//! processor's back.

use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use super::broken_reset::{Sabotage, sabotage};
use super::captured::{captured, run_a_while, with_disk};
use super::tiny_guest::config;
use crate::KvmKind;
use crate::kvm::DirtyTracking;
use crate::machine::*;

const LIMIT: Duration = Duration::from_secs(20);
/// What asks KVM to flush: protecting a page, and a change of CR4.
const FLUSHING: [&str; 2] = ["KVM_CLEAR_DIRTY_LOG", "KVM_SET_SREGS"];

fn flushes(machine: &Machine) -> Vec<&'static str> {
    let (_, calls) = machine.reset_recording_calls(Strategy::CopyBack).unwrap();
    calls.iter().map(|call| call.name).filter(|name| FLUSHING.contains(name)).collect()
}

/// From now on all that the guest has written is hot.
fn learn(machine: &Machine) {
    run_a_while(machine);
    machine.reset(Strategy::CopyBack).unwrap();
    let hot = machine.last_reset_pages().unwrap();
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    live.golden().unwrap().set_hot_pages(hot);
}

#[test]
fn a_reset_that_finds_only_hot_pages_asks_for_a_flush() {
    let machine = captured(with_disk());
    learn(&machine);
    for _ in 0..3 {
        run_a_while(&machine);
        assert_eq!(flushes(&machine), ["KVM_CLEAR_DIRTY_LOG"]);
        assert_eq!(machine.differences().unwrap().0, []);
        // The second reset of a verified one: the guest has written nothing else.
        assert_eq!(flushes(&machine), ["KVM_CLEAR_DIRTY_LOG"]);
        assert_eq!(machine.differences().unwrap().0, []);
    }
    sabotage(&machine, Some(Sabotage::SkipFlush));
    run_a_while(&machine);
    assert_eq!(flushes(&machine), [""; 0], "without the step nobody asks");
}

#[test]
fn a_reset_that_finds_nothing_written_asks_for_a_flush() {
    for tracking in [DirtyTracking::Log, DirtyTracking::Ring] {
        for vcpus in [1, 2] {
            let first = captured(MachineConfig { vcpus, ..with_disk() });
            let golden = {
                let phase = first.lock();
                let Phase::Paused(live) = &*phase else { panic!("not paused") };
                live.golden().unwrap()
            };
            let machine = Machine::fork_with(&golden, tracking).unwrap();
            for _ in 0..2 {
                let asked = flushes(&machine);
                assert!(asked.len() >= usize::from(vcpus), "{tracking:?}: {asked:?}");
                assert_eq!(machine.differences().unwrap().0, []);
            }
            if vcpus == 1 {
                sabotage(&machine, Some(Sabotage::SkipFlush));
                assert_eq!(flushes(&machine), [""; 0], "without the step nobody asks");
            }
        }
    }
}

/// Reading the log protects what is in it: no second call is needed.
#[test]
fn a_reset_that_finds_written_pages_needs_no_second_call() {
    let machine = captured(with_disk());
    run_a_while(&machine);
    assert_eq!(flushes(&machine), [""; 0]);
    // What a check collects is no collection of the next reset's.
    machine.state_differences().unwrap();
    assert_eq!(flushes(&machine), ["KVM_SET_SREGS"]);
}

/// Waits for a word at 2 MiB. With 1 there, maps the last 2 MiB below 1 GiB to 4 MiB instead of to
/// 6 MiB. Then says what it reads there.
const REMAP: [u8; 42] = [
    0xbf, 0x00, 0x00, 0x20, 0x00, // mov edi, 0x200000
    0x8a, 0x07, // 1: mov al, [rdi]
    0x84, 0xc0, // test al, al
    0x74, 0xfa, // je 1b
    0xba, 0x00, 0x00, 0xe0, 0x3f, // mov edx, 0x3fe00000
    0x3c, 0x02, // cmp al, 2
    0x74, 0x10, // je 2f
    0xbb, 0xf8, 0xbf, 0x00, 0x00, // mov ebx, the last entry of the page directory
    0xb8, 0x83, 0x00, 0x40, 0x00, // mov eax, 0x400000 | large, present, writable
    0x48, 0x89, 0x03, // mov [rbx], rax
    0x0f, 0x01, 0x3a, // invlpg [rdx]
    0x8a, 0x02, // 2: mov al, [rdx]
    0xe6, 0x80, // out 0x80, al
    0xf3, 0x90, // 3: pause
];
/// `jmp 3b`
const AGAIN: [u8; 2] = [0xeb, 0xfc];

/// Needs a processor that translates for the guest: VT-x with EPT or AMD-V with nested paging, of
/// silicon to be worth much (an emulated one may flush at every entry). Software KVM translates with
/// page tables of its own, which no flush concerns.
#[test]
fn a_translation_of_the_last_command_is_gone() {
    if crate::probe().unwrap().kind == KvmKind::Software {
        println!("needs a processor with VT-x or AMD-V: not tried on this host");
        return;
    }
    let machine = Machine::create(config(&[REMAP.as_slice(), &AGAIN].concat())).unwrap();
    machine.boot_paused().unwrap();
    let write = |at: u64, value: u64| {
        let phase = machine.lock();
        let Phase::Paused(live) = &*phase else { panic!("not paused") };
        live.core.vm.ram().write_obj(value, GuestAddress(at)).unwrap();
    };
    write(0xbff8, 0x60_0083);
    write(0x40_0000, 0xaa);
    write(0x60_0000, 0xbb);
    machine.resume().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    machine.pause().unwrap();
    let golden = machine.capture().unwrap();
    let run = |command: u64| {
        let seen = machine.checkpoint().map_or(0, |mark| mark.count);
        write(0x20_0000, command);
        machine.resume().unwrap();
        let mark = machine.wait_checkpoint(seen, LIMIT).unwrap();
        machine.pause().unwrap();
        mark.value
    };
    assert_eq!(run(1), 0xaa);
    machine.reset(Strategy::CopyBack).unwrap();
    golden.set_hot_pages(machine.last_reset_pages().unwrap());
    for _ in 0..100 {
        assert_eq!(run(1), 0xaa);
        machine.reset(Strategy::CopyBack).unwrap();
        assert_eq!(run(2), 0xbb, "the last command's page is still mapped");
        machine.reset(Strategy::CopyBack).unwrap();
    }
}
