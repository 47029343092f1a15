//! Putting a machine together: memory, VM, kernel, devices, vCPUs, in that order.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::fate::Fate;
use super::{BootTimings, MachineConfig, MachineError, StopReason};
use crate::boot::{self, BootError};
use crate::devices::block::{Block, Overlay};
use crate::devices::rng::Rng;
use crate::devices::virtio::{FaultLatch, FaultSink, Interrupt, MmioTransport, VirtioDevice};
use crate::devices::vsock::VsockDevice;
use crate::devices::{Bus, Com1, Console, KeyboardController};
use crate::kvm::{self, CpuidTemplate, Vcpu, VcpuRole, Vm, VmIrqLine};
use crate::memory::{self, GuestRam, layout};

/// A machine whose vCPUs have not been entered.
pub struct Assembly {
    pub vm: Vm,
    pub vcpus: Vec<Vcpu>,
    pub bus: Arc<Bus>,
    /// Set when the guest pulls the reset line.
    pub reset: Arc<AtomicBool>,
    pub timings: BootTimings,
}

/// Builds everything but the threads.
pub fn assemble(
    config: &MachineConfig,
    vsock: VsockDevice,
    console: Console,
    fate: &Arc<Fate>,
) -> Result<Assembly, MachineError> {
    let mut timings = BootTimings::default();
    let kvm = kvm::open()?;
    let ram = timed(&mut timings.memory, || memory::allocate(config.memory_mib))?;
    let ram = Arc::new(ram);
    let vm = timed(&mut timings.kvm_setup, || Vm::create(&kvm, Arc::clone(&ram)))?;

    let reset = Arc::new(AtomicBool::new(false));
    let devices = timed(&mut timings.devices, || devices(config, vsock))?;
    let device_count = devices.len() as u32;
    let bus = Arc::new(wire(&vm, devices, console, fate, &reset));

    let entry = timed(&mut timings.kernel_load, || load(config, &ram, device_count))?;
    let vcpus = timed(&mut timings.vcpus, || {
        let cpuid = CpuidTemplate::for_host(&kvm, config.vcpus)?;
        (0..config.vcpus)
            .map(|index| {
                let vcpu = Vcpu::create(&vm, index, &cpuid)?;
                let role =
                    if index == 0 { VcpuRole::Bootstrap { entry } } else { VcpuRole::Application };
                vcpu.prepare(role)?;
                Ok(vcpu)
            })
            .collect::<Result<Vec<_>, kvm::KvmError>>()
    })?;
    Ok(Assembly { vm, vcpus, bus, reset, timings })
}

type SharedDevice = Arc<Mutex<dyn VirtioDevice>>;

/// The virtio devices in slot order.
fn devices(config: &MachineConfig, vsock: VsockDevice) -> Result<Vec<SharedDevice>, MachineError> {
    let mut devices: Vec<SharedDevice> = Vec::new();
    if let Some(image) = &config.disk {
        let overlay = Overlay::new(Arc::clone(image))
            .map_err(|e| MachineError::Device { device: "disk", reason: e.to_string() })?;
        devices.push(Arc::new(Mutex::new(Block::new(overlay))));
    }
    devices.push(Arc::new(Mutex::new(vsock)));
    devices.push(Arc::new(Mutex::new(Rng::new())));
    Ok(devices)
}

/// Gives every device its interrupt line and place on the bus.
fn wire(
    vm: &Vm,
    devices: Vec<SharedDevice>,
    console: Console,
    fate: &Arc<Fate>,
    reset: &Arc<AtomicBool>,
) -> Bus {
    let line = |gsi| Box::new(VmIrqLine::new(Arc::clone(vm.fd()), gsi));
    let sink: FaultSink = {
        let fate = Arc::downgrade(fate);
        Arc::new(move |fault| {
            if let Some(fate) = fate.upgrade() {
                fate.stop(StopReason::DeviceFault(fault.clone()));
            }
        })
    };
    let transports = devices
        .into_iter()
        .zip(layout::VIRTIO_MMIO_IRQ..)
        .map(|(device, gsi)| {
            let interrupt = Arc::new(Interrupt::new(line(gsi)));
            let faults = Arc::new(FaultLatch::new(Arc::clone(&interrupt), Arc::clone(&sink)));
            MmioTransport::new(device, Arc::clone(vm.ram()), interrupt, faults)
        })
        .collect();
    let com1 = Com1::new(console, line(Com1::IRQ));
    Bus::new(com1, KeyboardController::new(Arc::clone(reset)), transports)
}

/// Writes the kernel and everything it reads at entry. Returns the entry point.
fn load(config: &MachineConfig, ram: &GuestRam, devices: u32) -> Result<u64, BootError> {
    let bytes = u64::from(config.memory_mib) << 20;
    let command_line = boot::with_devices(&config.cmdline, devices)?;
    let kernel = config.kernel.load(ram, bytes)?;
    boot::write_boot_params(ram, bytes, &command_line, kernel.setup)?;
    boot::write_tables(ram)?;
    boot::write_mp_table(ram, config.vcpus)?;
    Ok(kernel.entry)
}

fn timed<T>(took: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *took += start.elapsed();
    result
}
