//! Registers of a vCPU that stands still, for people.

use std::collections::HashMap;
use std::fmt;

use crate::arch::VcpuImage;
use crate::kvm::{KvmError, Vcpu};

/// A register of a vCPU.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Register {
    /// Index of the vCPU.
    pub vcpu: usize,
    /// Name of the register: `rax` or `MSR 0x10`.
    pub name: String,
    /// What KVM has in it.
    pub is: String,
    /// What was captured; `None` where it was not there.
    pub was: Option<String>,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vcpu, name, is, was } = self;
        write!(f, "vCPU {vcpu} {name}: {is}")?;
        match was {
            Some(was) if was == is => Ok(()),
            Some(was) => write!(f, ", captured {was}"),
            None => f.write_str(", not captured"),
        }
    }
}

/// Reads all of them. The vCPU must be parked, and this its thread.
pub fn read(
    index: usize,
    vcpu: &mut Vcpu,
    image: &VcpuImage,
    host_tsc: u64,
) -> Result<Vec<Register>, KvmError> {
    // Not alone: reading must not depend on what KVM says of the counter beside the other registers.
    let state = vcpu.read_back(image, host_tsc, false)?;
    let mut captured: HashMap<String, String> = image.state().describe().into_iter().collect();
    let named = state.describe().into_iter().map(|(name, is)| {
        let was = captured.remove(&name);
        Register { vcpu: index, name, is, was }
    });
    Ok(named.collect())
}
