//! Putting a machine together: memory, kernel, VM, devices, vCPUs, in that order.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::stop_state::StopState;
use super::{BootTimings, MachineConfig, MachineError, StopReason};
use crate::arch::{
    self, CpuidTemplate, KeyboardController, RestoreKind, VcpuRole, VmIrqLine, layout,
};
use crate::boot::{self, BootError};
use crate::devices::block::DiskImage;
use crate::devices::virtio::{FaultSink, IrqLine, transport};
use crate::devices::vsock::VsockDevice;
use crate::devices::{
    BuildError, Builder, ByType, Checkpoint, Console, DEVICES, DeviceSet, MachineShape,
    virtio_slots,
};
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
    pub vsock: VsockDevice,
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
    let options = VmOptions { tracking, golden: None };
    let kvm = kvm::open()?;
    let ram =
        timed(&mut timings.memory, || memory::allocate(config.memory_mib, layout::ram_ranges))?;
    // Before KVM watches the memory: it is told of every change of the mapping from then on.
    let entry = timed(&mut timings.kernel_load, || load(config, &ram))?;
    let ram = Arc::new(ram);
    let vm = timed(&mut timings.kvm_setup, || Vm::create(&kvm, Arc::clone(&ram), options))?;
    let reset = Arc::new(AtomicBool::new(false));
    let devices = timed(&mut timings.devices, || {
        devices(shape_of(config), config.disk.as_ref(), &vm, handles, &reset)
    })?;
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
    let options = VmOptions { tracking, golden: Some(&golden.vcpus) };
    let kvm = kvm::open()?;
    let ram = Arc::new(timed(&mut timings.memory, || golden.memory.map())?);
    let vm = timed(&mut timings.kvm_setup, || Vm::create(&kvm, Arc::clone(&ram), options))?;
    let reset = Arc::new(AtomicBool::new(false));
    let devices = timed(&mut timings.devices, || {
        let devices = devices(golden.shape(), golden.disk.as_ref(), &vm, handles, &reset)?;
        // Nothing may move between host and guest before both are restored.
        devices.quiesce();
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

/// All devices of a machine of this shape, on their bus.
fn devices(
    shape: MachineShape,
    disk: Option<&Arc<DiskImage>>,
    vm: &Vm,
    handles: HostHandles<'_>,
    reset: &Arc<AtomicBool>,
) -> Result<DeviceSet, MachineError> {
    let HostHandles { vsock, console, checkpoint, stop_state } = handles;
    let mut resources = ByType::default();
    resources.put(console);
    resources.put(vsock);
    if let Some(disk) = disk {
        resources.put(Arc::clone(disk));
    }
    let line = |gsi| -> Box<dyn IrqLine> { Box::new(VmIrqLine::new(Arc::clone(vm.fd()), gsi)) };
    let faults: FaultSink = {
        let stop_state = Arc::downgrade(stop_state);
        Arc::new(move |fault| {
            if let Some(stop_state) = stop_state.upgrade() {
                stop_state.stop(StopReason::DeviceFault(fault.clone()));
            }
        })
    };
    let mut builder = Builder::new(resources, Arc::clone(vm.ram()), &line, faults);
    let keyboard = KeyboardController::new(Arc::clone(reset));
    let (first, count) = (KeyboardController::FIRST_PORT, KeyboardController::PORTS);
    builder.bus.add_ports(first, count, Arc::new(keyboard));
    builder.bus.add_ports(Checkpoint::PORT, 1, Arc::new(checkpoint));
    DeviceSet::build(DEVICES, shape, builder)
        .map_err(|BuildError { device, reason }| MachineError::Device { device, reason })
}

fn shape_of(config: &MachineConfig) -> MachineShape {
    MachineShape { has_disk: config.disk.is_some(), guest_cid: config.guest_cid }
}

/// Writes the kernel and everything it reads at entry. Returns the entry point.
fn load(config: &MachineConfig, ram: &GuestRam) -> Result<u64, BootError> {
    let bytes = u64::from(config.memory_mib) << 20;
    let devices = transport::announce(virtio_slots(DEVICES, shape_of(config)));
    let command_line = boot::with_devices(&config.cmdline, &devices)?;
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
