//! Putting a machine together: memory, kernel, VM, devices, vCPUs, in that order.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::stop_state::StopState;
use super::{BootTimings, MachineConfig, MachineError, StopReason};
use crate::arch::{
    self, CpuidTemplate, KeyboardController, RestoreKind, VcpuRole, VmIrqLine, layout,
};
use crate::boot::{self, BootError};
use crate::devices::block::{Block, DiskImage, Overlay};
use crate::devices::rng::Rng;
use crate::devices::virtio::{FaultLatch, FaultSink, Interrupt, MmioTransport, VirtioDevice};
use crate::devices::vsock::{VsockDevice, VsockHost};
use crate::devices::{Bus, Checkpoint, Com1, Console, DeviceSet};
use crate::kvm::{self, DirtyTracking, KvmError, Vcpu, Vm, VmOptions};
use crate::memory::{self, GuestRam};
use crate::snapshot::{Golden, ResetError};

/// A machine whose vCPUs have not been entered.
pub struct Assembly {
    pub vm: Vm,
    pub vcpus: Vec<Vcpu>,
    pub devices: DeviceSet,
    pub cpuid: Arc<CpuidTemplate>,
    /// Set when the guest pulls the reset line.
    pub reset: Arc<AtomicBool>,
    pub timings: BootTimings,
}

/// What exists before the machine does.
pub struct HostHandles<'a> {
    pub vsock: (VsockDevice, VsockHost),
    pub console: Console,
    pub checkpoint: Checkpoint,
    pub stop_state: &'a Arc<StopState>,
}

/// Builds everything but the threads, with a kernel about to start.
pub fn assemble(
    config: &MachineConfig,
    tracking: DirtyTracking,
    handles: HostHandles<'_>,
) -> Result<Assembly, MachineError> {
    let mut timings = BootTimings::default();
    let options = VmOptions { tracking, in_golden_state: false };
    let kvm = kvm::open()?;
    let ram =
        timed(&mut timings.memory, || memory::allocate(config.memory_mib, layout::ram_ranges))?;
    // Before KVM watches the memory: it is told of every change of the mapping from then on.
    let entry = timed(&mut timings.kernel_load, || load(config, &ram))?;
    let ram = Arc::new(ram);
    let vm = timed(&mut timings.kvm_setup, || Vm::create(&kvm, Arc::clone(&ram), options))?;
    let reset = Arc::new(AtomicBool::new(false));
    let devices =
        timed(&mut timings.devices, || devices(config.disk.as_ref(), &vm, handles, &reset))?;
    let (cpuid, vcpus) = timed(&mut timings.vcpus, || {
        let cpuid = Arc::new(CpuidTemplate::for_host(&kvm, config.vcpus)?);
        let vcpus = (0..config.vcpus)
            .map(|index| {
                let vcpu = Vcpu::create(&vm, index, &cpuid)?;
                let role =
                    if index == 0 { VcpuRole::Bootstrap { entry } } else { VcpuRole::Application };
                vcpu.prepare(role)?;
                Ok(vcpu)
            })
            .collect::<Result<Vec<_>, KvmError>>()?;
        Ok::<_, KvmError>((cpuid, vcpus))
    })?;
    Ok(Assembly { vm, vcpus, devices, cpuid, reset, timings })
}

/// Builds everything but the threads, in a golden state.
pub fn fork(
    golden: &Golden,
    tracking: DirtyTracking,
    handles: HostHandles<'_>,
) -> Result<Assembly, MachineError> {
    let mut timings = BootTimings::default();
    let options = VmOptions { tracking, in_golden_state: true };
    let kvm = kvm::open()?;
    let ram = Arc::new(timed(&mut timings.memory, || golden.memory.map())?);
    let vm = timed(&mut timings.kvm_setup, || Vm::create(&kvm, Arc::clone(&ram), options))?;
    let reset = Arc::new(AtomicBool::new(false));
    // Nothing may move between host and guest before both are back.
    handles.vsock.1.quiesce();
    let devices = timed(&mut timings.devices, || {
        let devices = devices(golden.disk.as_ref(), &vm, handles, &reset)?;
        devices.restore(&golden.devices).map_err(ResetError::from)?;
        Ok::<_, MachineError>(devices)
    })?;
    let cpuid = Arc::clone(&golden.cpuid);
    let vcpus = timed(&mut timings.vcpus, || {
        let mut vcpus = (0..golden.vcpus.len())
            .map(|index| Vcpu::create(&vm, index as u8, &cpuid))
            .collect::<Result<Vec<_>, _>>()?;
        vm.restore(&golden.vm)?;
        let now = arch::host_tsc();
        for (vcpu, image) in vcpus.iter_mut().zip(&golden.vcpus) {
            vcpu.restore(image, now, RestoreKind::New)?;
        }
        Ok::<_, KvmError>(vcpus)
    })?;
    Ok(Assembly { vm, vcpus, devices, cpuid, reset, timings })
}

/// Virtio devices that every machine has: vsock and entropy.
const ALWAYS_THERE: u32 = 2;

type SharedDevice = Arc<Mutex<dyn VirtioDevice>>;

/// All devices, the virtio ones in slot order: disk if there is one, vsock, entropy.
fn devices(
    disk: Option<&Arc<DiskImage>>,
    vm: &Vm,
    handles: HostHandles<'_>,
    reset: &Arc<AtomicBool>,
) -> Result<DeviceSet, MachineError> {
    let HostHandles { vsock: (vsock_device, vsock), console, checkpoint, stop_state } = handles;
    let block = disk
        .map(|image| {
            let overlay = Overlay::new(Arc::clone(image))
                .map_err(|e| MachineError::Device { device: "disk", reason: e.to_string() })?;
            Ok::<_, MachineError>(Arc::new(Mutex::new(Block::new(overlay))))
        })
        .transpose()?;
    let rng = Arc::new(Mutex::new(Rng::new()));
    let mut virtio: Vec<SharedDevice> = Vec::new();
    virtio.extend(block.iter().map(|block| Arc::clone(block) as SharedDevice));
    virtio.push(Arc::new(Mutex::new(vsock_device)));
    virtio.push(Arc::clone(&rng) as SharedDevice);
    let bus = Arc::new(wire(vm, virtio, (console, checkpoint), stop_state, reset));
    Ok(DeviceSet { bus, block, rng, vsock })
}

/// Gives every device its interrupt line and place on the bus.
fn wire(
    vm: &Vm,
    devices: Vec<SharedDevice>,
    (console, checkpoint): (Console, Checkpoint),
    stop_state: &Arc<StopState>,
    reset: &Arc<AtomicBool>,
) -> Bus {
    let line = |gsi| VmIrqLine::new(Arc::clone(vm.fd()), gsi);
    let sink: FaultSink = {
        let stop_state = Arc::downgrade(stop_state);
        Arc::new(move |fault| {
            if let Some(stop_state) = stop_state.upgrade() {
                stop_state.stop(StopReason::DeviceFault(fault.clone()));
            }
        })
    };
    let transports = devices
        .into_iter()
        .zip(layout::VIRTIO_MMIO_IRQ..)
        .map(|(device, gsi)| {
            let interrupt = Arc::new(Interrupt::new(Box::new(line(gsi))));
            let faults = Arc::new(FaultLatch::new(Arc::clone(&interrupt), Arc::clone(&sink)));
            MmioTransport::new(device, Arc::clone(vm.ram()), interrupt, faults)
        })
        .collect();
    let com1 = Com1::new(console, Arc::new(line(Com1::IRQ)));
    let keyboard = KeyboardController::new(Arc::clone(reset));
    Bus::new(com1, keyboard, checkpoint, transports)
}

/// Writes the kernel and everything it reads at entry. Returns the entry point.
fn load(config: &MachineConfig, ram: &GuestRam) -> Result<u64, BootError> {
    let bytes = u64::from(config.memory_mib) << 20;
    let devices = ALWAYS_THERE + u32::from(config.disk.is_some());
    let command_line = boot::with_devices(&config.cmdline, devices)?;
    let kernel = config.kernel.load(ram, bytes)?;
    arch::write_boot_data(ram, bytes, config.vcpus, &command_line, kernel.setup)?;
    Ok(kernel.entry)
}

fn timed<T>(took: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *took += start.elapsed();
    result
}
