//! The floor: what an in-place reset costs when it is nothing but kernel calls and a copy.
//!
//! One vCPU, anonymous memory, no devices, no threads, no bookkeeping: read the dirty log, copy
//! the dirty pages back, restore everything KVM keeps with one call for each part. What a real
//! reset takes is held against this, measured in the same run.

use std::io;
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use brainstorm_agent::bench::{Distribution, StepTimes};
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, Msrs, kvm_clock_data, kvm_irqchip,
    kvm_msr_entry, kvm_pit_config, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit};

use benches::sweep::Row;

const PAGE: usize = 4096;
const TABLES: usize = 0x9000;
const GDT: usize = 0x500;
const CODE: usize = 0x10_0000;
const FIRST_PAGE: usize = 0x100_0000;
/// `1: mov [rdi], al; add rdi, 4096; dec rcx; jnz 1b; out 0x10, al; jmp 1b`
const GUEST: [u8; 18] = [
    0x88, 0x07, 0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0x48, 0xff, 0xc9, 0x75, 0xf2, 0xe6, 0x10,
    0xeb, 0xee,
];
/// MSRs that are restored: those a 64-bit kernel sets up and uses.
const MSRS: [u32; 15] = [
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
    0x10,
    0x1a0,
    0x277,
    0x2ff,
    0x4b56_4d01,
    0x4b56_4d00,
    0x6e0,
];
const WARM_UP: usize = 5;

/// Memory of this process.
struct Mapping {
    address: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(length: usize, sharing: libc::c_int) -> Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                sharing | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if ptr::eq(address, libc::MAP_FAILED) {
            return Err(io::Error::last_os_error()).context("mapping guest memory");
        }
        Ok(Self { address: address.cast(), length })
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let end = at.checked_add(bytes.len()).context("an address too large")?;
        if end > self.length {
            bail!("{end:#x} is outside guest memory");
        }
        // SAFETY: the range was just checked, and no guest runs.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.add(at), bytes.len()) };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length; nothing uses it any more.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

/// Measures the floor.
#[expect(clippy::too_many_lines, reason = "the floor is a straight line of calls")]
pub fn measure(memory_mib: u32, dirty_pages: u64, iterations: u32) -> Result<Row> {
    let length = (memory_mib as usize) << 20;
    if FIRST_PAGE + dirty_pages as usize * PAGE > length {
        bail!("{dirty_pages} pages do not fit {memory_mib} MiB");
    }
    let kvm = Kvm::new().context("opening /dev/kvm")?;
    let vm = kvm.create_vm()?;
    vm.set_tss_address(0xfffb_d000)?;
    vm.create_irq_chip()?;
    vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() })?;
    let mut ram = Mapping::new(length, libc::MAP_PRIVATE)?;
    let golden = Mapping::new(length, libc::MAP_SHARED)?;
    let slot = kvm_userspace_memory_region {
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        memory_size: length as u64,
        userspace_addr: ram.address as u64,
        ..Default::default()
    };
    // SAFETY: `ram` outlives the VM's last run.
    unsafe { vm.set_user_memory_region(slot) }?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?)?;
    set_up(&mut ram)?;
    let mut sregs = vcpu.get_sregs()?;
    let code = kvm_segment {
        limit: u32::MAX,
        selector: 8,
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { type_: 3, selector: 16, l: 0, db: 1, ..code };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT as u64, 23);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8005_0033, TABLES as u64, 0x620, 0x500);
    vcpu.set_sregs(&sregs)?;
    let start = kvm_regs { rip: CODE as u64, rflags: 2, rsp: 0x8_0000, ..Default::default() };
    vcpu.set_regs(&start)?;

    let entries = MSRS.map(|index| kvm_msr_entry { index, ..Default::default() });
    let mut msrs = Msrs::from_entries(&entries).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    let known = vcpu.get_msrs(&mut msrs)?;
    let msrs = Msrs::from_entries(msrs.as_slice().get(..known).unwrap_or_default())
        .map_err(|e| anyhow::anyhow!("{e:?}"))?;
    let lapic = vcpu.get_lapic()?;
    let mut chips = [0, 1, 2].map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
    for chip in &mut chips {
        vm.get_irqchip(chip)?;
    }
    let pit = vm.get_pit2()?;
    let clock = kvm_clock_data { clock: vm.get_clock()?.clock, ..Default::default() };
    let (xsave, xcrs) = (vcpu.get_xsave()?, vcpu.get_xcrs()?);
    let (debug_regs, mp_state) = (vcpu.get_debug_regs()?, vcpu.get_mp_state()?);
    // SAFETY: two mappings of this length, and no guest runs.
    unsafe { ptr::copy_nonoverlapping(ram.address, golden.address, length) };

    let mut took = Vec::new();
    let mut parts: [Vec<Duration>; 4] = Default::default();
    for iteration in 0..WARM_UP + iterations as usize {
        let dirtying = kvm_regs { rdi: FIRST_PAGE as u64, rcx: dirty_pages, ..start };
        vcpu.set_regs(&dirtying)?;
        match vcpu.run()? {
            VcpuExit::IoOut(..) => {}
            other => bail!("unexpected exit {other:?}"),
        }
        let begun = Instant::now();
        let log = vm.get_dirty_log(0, length)?;
        let collected = Instant::now();
        for (index, word) in log.iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                let at = (index * 64 + word.trailing_zeros() as usize) * PAGE;
                word &= word - 1;
                // SAFETY: KVM logs pages of the slot, which both mappings hold.
                unsafe {
                    ptr::copy_nonoverlapping(golden.address.add(at), ram.address.add(at), PAGE);
                }
            }
        }
        let copied = Instant::now();
        for chip in &chips {
            vm.set_irqchip(chip)?;
        }
        vm.set_pit2(&pit)?;
        vm.set_clock(&clock)?;
        let vm_restored = Instant::now();
        vcpu.set_mp_state(mp_state)?;
        vcpu.set_sregs(&sregs)?;
        vcpu.set_regs(&start)?;
        vcpu.set_xcrs(&xcrs)?;
        // SAFETY: no feature that needs more than 4 KiB was asked for.
        unsafe { vcpu.set_xsave(&xsave) }?;
        vcpu.set_msrs(&msrs)?;
        vcpu.set_lapic(&lapic)?;
        vcpu.set_debug_regs(&debug_regs)?;
        let done = Instant::now();
        if iteration >= WARM_UP {
            took.push(done - begun);
            let times =
                [collected - begun, copied - collected, vm_restored - copied, done - vm_restored];
            for (part, time) in parts.iter_mut().zip(times) {
                part.push(time);
            }
        }
    }
    let d = Distribution::of(took.iter().copied());
    let [collect, copy, vm, vcpus] = parts.map(|part| Distribution::of(part).p50_us);
    Ok(Row {
        guest: "micro".to_owned(),
        memory_mib,
        vcpus: 1,
        dirty_pages,
        strategy: "floor".to_owned(),
        iterations,
        p50_us: d.p50_us,
        p90_us: d.p90_us,
        p99_us: d.p99_us,
        max_us: d.max_us,
        parts_us: StepTimes { collect, copy, vm, vcpus, ..StepTimes::default() },
        next_run_us: 0.0,
        samples_us: took.iter().map(|d| d.as_secs_f64() * 1e6).collect(),
    })
}

/// Page tables for the first GiB, a descriptor table and the code.
fn set_up(ram: &mut Mapping) -> Result<()> {
    ram.write(TABLES, &(TABLES as u64 + 0x1003).to_le_bytes())?;
    ram.write(TABLES + 0x1000, &(TABLES as u64 + 0x2003).to_le_bytes())?;
    for index in 0..512_u64 {
        let entry = (index * 0x20_0000) | 0x83;
        ram.write(TABLES + 0x2000 + 8 * index as usize, &entry.to_le_bytes())?;
    }
    ram.write(GDT + 8, &0x00af_9b00_0000_ffff_u64.to_le_bytes())?;
    ram.write(GDT + 16, &0x00cf_9300_0000_ffff_u64.to_le_bytes())?;
    ram.write(CODE, &GUEST)
}
