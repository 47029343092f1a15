//! What this host's KVM can do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};

use crate::arch::{self, CpuidTemplate, layout};
use crate::ioctl::API_VERSION;
use crate::kvm::{self, KvmError, Next, Vcpu, VcpuControl, VcpuThread, Vm, VmOptions};
use crate::memory;

/// Iterations of the counting loop: hardware needs about 5 ms, software KVM about 11 s.
const LOOP_COUNT: u32 = 10_000_000;
/// Longest time of the loop on hardware. Emulated hardware needs 75 ms on an idle host; an interpreter
/// needs far longer than this limit.
const LOOP_LIMIT: Duration = Duration::from_millis(500);
/// Guest-physical address of the loop.
const LOOP_ADDRESS: u64 = layout::HIGH_MEMORY;

/// What executes guest kernel code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmKind {
    /// The processor executes it. Linux guests run.
    Hardware,
    /// An interpreter executes it. KVM's ioctls work at native speed, but a Linux kernel does not boot.
    Software,
}

/// One KVM capability this library makes use of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capability {
    /// Name as in the kernel's documentation.
    pub name: &'static str,
    /// Value of `KVM_CHECK_EXTENSION`: 0 means absent.
    pub value: i32,
    /// Whether machines cannot run without it.
    pub required: bool,
}

/// What [`probe`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostProbe {
    /// What `KVM_GET_API_VERSION` returns.
    pub api_version: i32,
    /// What executes guest kernel code, as the time of a counting loop in long mode shows.
    pub kind: KvmKind,
    /// How long the counting loop took, in microseconds; at the limit for software.
    pub loop_us: u64,
    /// Capabilities and their values.
    pub capabilities: Vec<Capability>,
}

impl Capability {
    /// A capability with the value that KVM has for it.
    pub fn new(name: &'static str, value: i32, required: bool) -> Self {
        Self { name, value, required }
    }
}

impl HostProbe {
    /// A probe with this outcome, of a KVM of the usual version. For tests of programs that decide
    /// by a probe.
    pub fn new(kind: KvmKind, capabilities: Vec<Capability>) -> Self {
        Self { api_version: API_VERSION, kind, loop_us: 0, capabilities }
    }

    /// Names of required capabilities that are absent.
    pub fn missing(&self) -> Vec<&'static str> {
        self.capabilities.iter().filter(|c| c.required && c.value == 0).map(|c| c.name).collect()
    }
}

/// Asks KVM what it can do and times a counting loop of 10 million iterations, for at most 500 ms.
///
/// # Errors
///
/// There is no usable KVM, or it refuses the guest that runs the loop.
pub fn probe() -> Result<HostProbe, KvmError> {
    let kvm = kvm::open()?;
    let (kind, took) = time_loop(&kvm)?;
    let capabilities = arch::CAPABILITIES
        .iter()
        .map(|(name, cap, required)| {
            Capability::new(name, kvm.check_extension_int(*cap), *required)
        })
        .collect();
    Ok(HostProbe {
        api_version: kvm.get_api_version(),
        kind,
        loop_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        capabilities,
    })
}

fn time_loop(kvm: &Kvm) -> Result<(KvmKind, Duration), KvmError> {
    let setup = |e: String| KvmError::Ioctl {
        ioctl: "preparing the probe's guest",
        source: std::io::Error::other(e),
    };
    let ram = Arc::new(
        memory::allocate(memory::MIN_MEMORY_MIB, layout::ram_ranges)
            .map_err(|e| setup(e.to_string()))?,
    );
    arch::write_tables(&ram).map_err(|e| setup(e.to_string()))?;
    ram.write_slice(&arch::counting_loop(LOOP_COUNT), GuestAddress(LOOP_ADDRESS))
        .map_err(|e| setup(e.to_string()))?;
    let vm = Vm::create(kvm, ram, VmOptions::default())?;
    let vcpu = Vcpu::create(&vm, 0, &CpuidTemplate::for_host(kvm, 1)?)?;
    vcpu.enter_at(LOOP_ADDRESS, 0)?;

    let control = VcpuControl::new(vcpu);
    // Any exit but a kick means that the loop is over, well or badly.
    let step = |vcpu: &mut Vcpu| match vcpu.fd.run() {
        Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => Next::Kicked,
        _ => Next::Stop,
    };
    let _thread = VcpuThread::spawn("kvm-probe".into(), Arc::clone(&control), step, |_| {})?;
    let start = Instant::now();
    control.run();
    let finished = control.wait_parked(start + LOOP_LIMIT);
    let took = start.elapsed();
    Ok((if finished { KvmKind::Hardware } else { KvmKind::Software }, took))
}
