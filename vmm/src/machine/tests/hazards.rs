//! Hazards of putting a machine back, each provoked by a guest of a few bytes: they run on every
//! KVM there is. `docs/design/hazards.md` lists them with those that need a whole Linux.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::tiny_guest::{SPIN, config};
use crate::devices::ConsoleSnapshot;
use crate::machine::*;
use crate::memory::PAGE_BYTES;
use crate::snapshot::Difference;

const STRATEGIES: [Strategy; 4] = [
    Strategy::CopyBack,
    Strategy::DropPrivate,
    Strategy::Hybrid { copy_pages: 10 },
    Strategy::FullCopy,
];
const LIMIT: Duration = Duration::from_secs(20);
/// A page that no guest here writes to, except where it says so.
const DATA: GuestAddress = GuestAddress(0x20_0000);

/// Writes a number to the serial port's scratch register and reads it back, for ever. Counts
/// before and after; a number that is lost or comes twice is a triple fault.
const PORTS: [u8; 26] = [
    0xba, 0xff, 0x03, 0x00, 0x00, // mov edx, 0x3ff
    0x48, 0xff, 0xc3, // 1: inc rbx
    0x88, 0xd8, // mov al, bl
    0xee, // out dx, al
    0x48, 0xff, 0xc1, // inc rcx
    0xec, // in al, dx
    0x38, 0xd8, // cmp al, bl
    0x75, 0x05, // jne 2f
    0x48, 0x39, 0xcb, // cmp rbx, rcx
    0x74, 0xed, // je 1b
    0x0f, 0x0b, // 2: ud2
];

/// Maps the fourth GiB, then writes the first virtio device's queue selector and reads its magic
/// number, for ever, with counters as above.
const REGISTERS: [u8; 60] = [
    0xbf, 0x18, 0xa0, 0x00, 0x00, // mov edi, PDPT + 24
    0x48, 0xc7, 0x07, 0x03, 0x00, 0x30, 0x00, // mov qword [rdi], 0x300000 | present, writable
    0xbf, 0x00, 0x04, 0x30, 0x00, // mov edi, 0x300000 + 8 * 128
    0xb8, 0x9b, 0x00, 0x00, 0xd0, // mov eax, 0xd0000000 | large, uncached, present, writable
    0x48, 0x89, 0x07, // mov [rdi], rax
    0xba, 0x00, 0x00, 0x00, 0xd0, // mov edx, 0xd0000000
    0x48, 0xff, 0xc3, // 1: inc rbx
    0x89, 0xd8, // mov eax, ebx
    0x83, 0xe0, 0x01, // and eax, 1
    0x89, 0x42, 0x30, // mov [rdx + 0x30], eax
    0x8b, 0x02, // mov eax, [rdx]
    0x48, 0xff, 0xc1, // inc rcx
    0x3d, 0x76, 0x69, 0x72, 0x74, // cmp eax, "virt"
    0x75, 0x05, // jne 2f
    0x48, 0x39, 0xcb, // cmp rbx, rcx
    0x74, 0xe4, // je 1b
    0x0f, 0x0b, // 2: ud2
];

/// Writes 48 bytes with one instruction, for ever; an address that is not what it should be
/// afterwards is a triple fault.
const STRINGS: [u8; 33] = [
    0xba, 0xff, 0x03, 0x00, 0x00, // mov edx, 0x3ff
    0xfc, // cld
    0xbe, 0x00, 0x00, 0x20, 0x00, // 1: mov esi, 0x200000
    0xb9, 0x30, 0x00, 0x00, 0x00, // mov ecx, 48
    0xf3, 0x6e, // rep outsb
    0x81, 0xfe, 0x30, 0x00, 0x20, 0x00, // cmp esi, 0x200030
    0x75, 0x05, // jne 2f
    0x48, 0xff, 0xc3, // inc rbx
    0xeb, 0xe7, // jmp 1b
    0x0f, 0x0b, // 2: ud2
];

/// Writes to all memory from 2 MiB on, then to the checkpoint port.
const FILL: [u8; 31] = [
    0xbf, 0x00, 0x00, 0x20, 0x00, // mov edi, 0x200000
    0xb9, 0x00, 0x3e, 0x00, 0x00, // mov ecx, 62 MiB / 4 KiB
    0x48, 0xff, 0x07, // 1: inc qword [rdi]
    0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi, 0x1000
    0x48, 0xff, 0xc9, // dec rcx
    0x75, 0xf1, // jnz 1b
    0xe6, 0x80, // out 0x80, al
    0xf3, 0x90, // 2: pause
    0xeb, 0xfc, // jmp 2b
];
const FILLED_PAGES: usize = 0x3e00;

/// Prints for ever.
const PRINT: [u8; 10] = [
    0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
    0xb0, 0x78, // mov al, 'x'
    0xee, // 1: out dx, al
    0xeb, 0xfd, // jmp 1b
];

/// Waits until there is something at 2 MiB, then gives `PAT` the value it has after a reset.
const WRITE_PAT: [u8; 34] = [
    0xbf, 0x00, 0x00, 0x20, 0x00, // mov edi, 0x200000
    0x48, 0x83, 0x3f, 0x00, // 1: cmp qword [rdi], 0
    0x74, 0xfa, // je 1b
    0xb9, 0x77, 0x02, 0x00, 0x00, // mov ecx, 0x277
    0xb8, 0x06, 0x04, 0x07, 0x00, // mov eax, 0x70406
    0xba, 0x06, 0x04, 0x07, 0x00, // mov edx, 0x70406
    0x0f, 0x30, // wrmsr
    0xe6, 0x80, // out 0x80, al
    0xf3, 0x90, // 2: pause
    0xeb, 0xfc, // jmp 2b
];

/// Maps the local APIC and sends INIT, SIPI, SIPI to the second processor, which finds [`OTHER`],
/// and again as soon as that has counted.
const START_OTHER: [u8; 95] = [
    0xbf, 0x18, 0xa0, 0x00, 0x00, // mov edi, PDPT + 24
    0x48, 0xc7, 0x07, 0x03, 0x00, 0x30, 0x00, // mov qword [rdi], 0x300000 | present, writable
    0xbf, 0xb8, 0x0f, 0x30, 0x00, // mov edi, 0x300000 + 8 * 0x1f7
    0xb8, 0x9b, 0x00, 0xe0, 0xfe, // mov eax, 0xfee00000 | large, uncached, present, writable
    0x48, 0x89, 0x07, // mov [rdi], rax
    0xbf, 0x00, 0x81, 0x00, 0x00, // mov edi, 0x8100
    0xba, 0x00, 0x00, 0xe0, 0xfe, // mov edx, 0xfee00000
    0xc7, 0x82, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00, // SVR: enabled
    0xc7, 0x82, 0x10, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, // ICR high: APIC id 1
    0x8b, 0x07, // 1: mov eax, [rdi]
    0xc7, 0x82, 0x00, 0x03, 0x00, 0x00, 0x00, 0x45, 0x00, 0x00, // ICR: INIT
    0xc7, 0x82, 0x00, 0x03, 0x00, 0x00, 0x08, 0x46, 0x00, 0x00, // ICR: SIPI to 0x8000
    0xc7, 0x82, 0x00, 0x03, 0x00, 0x00, 0x08, 0x46, 0x00, 0x00, // ICR: SIPI to 0x8000
    0xf3, 0x90, // 2: pause
    0x39, 0x07, // cmp [rdi], eax
    0x74, 0xfa, // je 2b
    0xeb, 0xd8, // jmp 1b
];

/// Where the second processor starts, in real mode, and what it does: counts at [`COUNTED`] and
/// halts.
const OTHER_AT: GuestAddress = GuestAddress(0x8000);
const OTHER: [u8; 9] = [
    0x2e, 0xff, 0x06, 0x00, 0x01, // inc word [cs:0x100]
    0xfa, // cli
    0xf4, // 1: hlt
    0xeb, 0xfd, // jmp 1b
];
const COUNTED: GuestAddress = GuestAddress(0x8100);

/// Moments that lie nowhere in particular.
struct Moments(u64);

impl Moments {
    fn wait(&mut self) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        sleep(Duration::from_micros(self.0 % 1500));
    }
}

fn captured(config: MachineConfig, after: Duration) -> Machine {
    let machine = Machine::create(config).unwrap();
    machine.boot().unwrap();
    sleep(after);
    machine.pause().unwrap();
    machine.capture().unwrap();
    machine
}

fn differences(machine: &Machine) -> Vec<Difference> {
    assert_eq!(machine.stop_reason(), None);
    machine.differences().unwrap().0
}

fn with_ram<T>(machine: &Machine, look: impl FnOnce(&crate::memory::GuestRam) -> T) -> T {
    let phase = machine.lock();
    let Phase::Paused(live) = &*phase else { panic!("not paused") };
    look(live.core.vm.ram())
}

fn pages_from(start: GuestAddress, pages: usize) -> Difference {
    Difference::Memory { start: start.0, pages }
}

/// Resets a machine at moments of all kinds and lets it run on.
fn at_any_moment(machine: &Machine, seed: u64) {
    let mut moments = Moments(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
    for strategy in STRATEGIES.into_iter().cycle().take(16) {
        // Out of the guest by force, and back in while it runs.
        machine.resume().unwrap();
        for _ in 0..5 {
            moments.wait();
            machine.reset(strategy).unwrap();
        }
        moments.wait();
        machine.pause().unwrap();
        machine.reset(strategy).unwrap();
        assert_eq!(differences(machine), [], "seed {seed}, {}", strategy.name());
    }
    machine.resume().unwrap();
    sleep(Duration::from_millis(5));
    assert_eq!(machine.stop_reason(), None, "seed {seed}");
}

fn captured_and_reset_at_any_moment(code: &[u8]) {
    for seed in 1..=4 {
        let machine = captured(config(code), Duration::from_micros(15_000 + seed * 137));
        at_any_moment(&machine, seed);
    }
}

#[test]
fn no_port_access_is_lost_or_made_twice() {
    captured_and_reset_at_any_moment(&PORTS);
}

#[test]
fn no_register_access_is_lost_or_made_twice() {
    captured_and_reset_at_any_moment(&REGISTERS);
}

#[test]
fn a_string_of_port_accesses_is_whole() {
    captured_and_reset_at_any_moment(&STRINGS);
}

fn two_processors() -> Machine {
    let machine = Machine::create(MachineConfig { vcpus: 2, ..config(&START_OTHER) }).unwrap();
    machine.boot_paused().unwrap();
    with_ram(&machine, |ram| ram.write_slice(&OTHER, OTHER_AT).unwrap());
    machine
}

#[test]
fn start_up_interrupts_on_their_way_do_not_arrive_after_a_reset() {
    for seed in 1..=4 {
        let machine = two_processors();
        machine.resume().unwrap();
        sleep(Duration::from_micros(15_000 + seed * 137));
        machine.pause().unwrap();
        machine.capture().unwrap();
        at_any_moment(&machine, seed);
    }
}

/// A processor that has been started is not, after a reset to a moment before that, and starts
/// where it is told to when it is told again.
#[test]
fn a_started_processor_waits_to_be_started_again() {
    let machine = two_processors();
    machine.capture().unwrap();
    for strategy in STRATEGIES.into_iter().cycle().take(8) {
        let deadline = Instant::now() + LIMIT;
        let mut counted = 0_u16;
        while counted == 0 {
            assert!(Instant::now() < deadline, "the second processor was not started");
            machine.resume().unwrap();
            sleep(Duration::from_millis(5));
            machine.pause().unwrap();
            counted = with_ram(&machine, |ram| ram.read_obj(COUNTED).unwrap());
        }
        machine.reset(strategy).unwrap();
        assert_eq!(differences(&machine), [], "{}", strategy.name());
    }
}

#[test]
fn pages_that_only_a_device_has_written_come_back() {
    let machine = captured(config(&SPIN), Duration::from_millis(5));
    for strategy in STRATEGIES {
        let across = GuestAddress(DATA.0 + PAGE_BYTES as u64 - 50);
        with_ram(&machine, |ram| ram.write_slice(&[1; 100], across).unwrap());
        assert_eq!(differences(&machine), [pages_from(DATA, 2)]);
        let report = machine.reset(strategy).unwrap();
        assert_eq!(report.dirty_pages, 2);
        assert_eq!(differences(&machine), []);
    }
}

/// The record is believed by every strategy but one, and by the comparison not at all.
#[test]
fn what_passes_by_every_record_is_seen_by_the_comparison() {
    let machine = captured(config(&SPIN), Duration::from_millis(5));
    with_ram(&machine, |ram| {
        let pointer = ram.get_host_address(DATA).unwrap();
        // SAFETY: the address lies in guest memory, and nothing runs.
        unsafe { pointer.write_volatile(1) };
    });
    for strategy in &STRATEGIES[..3] {
        machine.reset(*strategy).unwrap();
        assert_eq!(differences(&machine), [pages_from(DATA, 1)], "{}", strategy.name());
    }
    machine.reset(Strategy::FullCopy).unwrap();
    assert_eq!(differences(&machine), []);
}

#[test]
fn a_guest_may_dirty_all_of_its_memory() {
    let machine = Machine::create(config(&FILL)).unwrap();
    machine.boot_paused().unwrap();
    machine.capture().unwrap();
    for strategy in STRATEGIES {
        let seen = machine.checkpoint().map_or(0, |mark| mark.count);
        machine.resume().unwrap();
        machine.wait_checkpoint(seen, LIMIT).unwrap();
        machine.pause().unwrap();
        let report = machine.reset(strategy).unwrap();
        assert!(report.dirty_pages >= FILLED_PAGES, "{report:?}");
        assert_eq!(differences(&machine), [], "{}", strategy.name());
    }
}

/// Where there is no swap, this asks for something that does not happen, and says so.
#[test]
fn dirty_pages_that_were_swapped_out_come_back() {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count();
    println!("swap areas: {}", swaps.saturating_sub(1));
    let machine = Machine::create(config(&FILL)).unwrap();
    machine.boot_paused().unwrap();
    machine.capture().unwrap();
    for strategy in STRATEGIES {
        let seen = machine.checkpoint().map_or(0, |mark| mark.count);
        machine.resume().unwrap();
        machine.wait_checkpoint(seen, LIMIT).unwrap();
        machine.pause().unwrap();
        with_ram(&machine, |ram| {
            let start = ram.get_host_address(DATA).unwrap();
            // SAFETY: a range of guest memory, whose content this does not change.
            unsafe { libc::madvise(start.cast(), FILLED_PAGES * PAGE_BYTES, libc::MADV_PAGEOUT) };
        });
        machine.reset(strategy).unwrap();
        assert_eq!(differences(&machine), [], "{}", strategy.name());
    }
}

#[test]
fn the_console_is_the_hosts_and_does_not_go_back() {
    let machine = captured(config(&PRINT), Duration::from_millis(10));
    let printed = |ConsoleSnapshot { bytes, dropped }| bytes.len() as u64 + dropped;
    let mut before = printed(machine.console());
    for strategy in STRATEGIES {
        machine.resume().unwrap();
        let deadline = Instant::now() + LIMIT;
        while printed(machine.console()) == before && Instant::now() < deadline {
            sleep(Duration::from_millis(1));
        }
        machine.pause().unwrap();
        let after = printed(machine.console());
        assert!(after > before, "{after} bytes, {before} before");
        machine.reset(strategy).unwrap();
        assert_eq!(differences(&machine), []);
        assert_eq!(printed(machine.console()), after);
        before = after;
    }
}

#[test]
fn registers_that_no_reset_restores_cannot_be_written() {
    let free = Machine::create(config(&WRITE_PAT)).unwrap();
    free.boot_paused().unwrap();
    with_ram(&free, |ram| ram.write_obj(1_u64, DATA).unwrap());
    free.resume().unwrap();
    assert!(free.wait_checkpoint(0, LIMIT).is_some(), "before a capture it may");

    let machine = captured(config(&WRITE_PAT), Duration::from_millis(5));
    with_ram(&machine, |ram| ram.write_obj(1_u64, DATA).unwrap());
    machine.resume().unwrap();
    assert_eq!(machine.wait_stopped(LIMIT), Some(StopReason::TripleFault));
}

/// Runs in a process of its own, where no other test opens files or uses memory.
#[test]
fn ten_thousand_resets_cost_no_memory_and_no_descriptors() {
    let name = "machine::tests::hazards::ten_thousand_resets_alone";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{error}");
    assert!(text.contains("after 10000 resets"), "{text}\n{error}");
}

#[test]
#[ignore = "counts what the whole process has: another test starts it alone"]
fn ten_thousand_resets_alone() {
    let machine = captured(config(&PORTS), Duration::from_millis(5));
    machine.resume().unwrap();
    let reset = |times| {
        for strategy in STRATEGIES[..3].iter().cycle().take(times) {
            machine.reset(*strategy).unwrap();
        }
        (resident_pages(), fs::read_dir("/proc/self/fd").unwrap().count())
    };
    let (pages, descriptors) = reset(1000);
    let (pages_after, descriptors_after) = reset(9000);
    println!("after 10000 resets: {pages_after} pages, were {pages}");
    assert_eq!(descriptors_after, descriptors);
    assert!(pages_after <= pages + 32, "{pages_after} pages, were {pages}");
    machine.pause().unwrap();
    machine.reset(Strategy::CopyBack).unwrap();
    assert_eq!(differences(&machine), []);
}

fn resident_pages() -> u64 {
    let numbers = fs::read_to_string("/proc/self/statm").unwrap();
    numbers.split(' ').nth(1).unwrap().parse().unwrap()
}
