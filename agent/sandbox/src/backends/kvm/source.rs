//! KVM machines for a pool: forks of one that was booted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use crate::pool::SandboxSource;
use crate::{KvmSandbox, Sandbox, SandboxError};

/// Makes a first sandbox once more, when nothing that came of the one before can be trusted.
pub type Origin = Box<dyn Fn() -> Result<KvmSandbox, SandboxError> + Send + Sync>;

/// Makes machines that share the golden state of one sandbox.
pub struct KvmSource {
    /// Never booted: it only keeps the golden state.
    template: Mutex<KvmSandbox>,
    /// The sandbox it came from, until it is a machine of the pool.
    first: Mutex<Option<KvmSandbox>>,
    bytes_per_machine: u64,
    /// `None` boots the image.
    origin: Option<Origin>,
}

impl KvmSource {
    /// Forks a booted sandbox, which itself becomes the first machine: it has cost its boot.
    ///
    /// # Errors
    ///
    /// The sandbox has no golden state.
    pub fn new(booted: KvmSandbox) -> Result<Self, SandboxError> {
        let source = Self::forking(&booted)?;
        Ok(Self { first: Mutex::new(Some(booted)), ..source })
    }

    /// Forks a booted sandbox, which stays its owner's.
    ///
    /// # Errors
    ///
    /// The sandbox has no golden state.
    pub fn forking(booted: &KvmSandbox) -> Result<Self, SandboxError> {
        let template = KvmSandbox::fork_of(booted).ok_or_else(no_golden_state)?;
        let golden = template.golden().ok_or_else(no_golden_state)?;
        let bytes_per_machine = u64::from(golden.memory_mib()) << 20;
        Ok(Self {
            template: Mutex::new(template),
            first: Mutex::new(None),
            bytes_per_machine,
            origin: None,
        })
    }

    /// Captures the golden state this way, instead of by booting the image as it is on disk.
    #[must_use]
    pub fn recaptured_from(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// A machine that is ready and that no call has used.
    ///
    /// # Errors
    ///
    /// When the fork does not become ready.
    pub fn machine(&self) -> Result<KvmSandbox, SandboxError> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(first) = first {
            // Its earlier use is unknown.
            match first.reset() {
                Ok(_) => return Ok(first),
                Err(error) => {
                    warn!(%error, "the booted sandbox is no use as a machine of the pool");
                }
            }
        }
        let fork = KvmSandbox::fork_of(&self.template()).ok_or_else(no_golden_state)?;
        fork.boot()?;
        Ok(fork)
    }

    fn template(&self) -> MutexGuard<'_, KvmSandbox> {
        self.template.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SandboxSource for KvmSource {
    fn make(&self) -> Result<Arc<dyn Sandbox>, SandboxError> {
        Ok(Arc::new(self.machine()?))
    }

    /// Boots the image as it is on disk, whatever the golden state came from, unless there is another
    /// way.
    fn recapture(&self) -> Result<(), SandboxError> {
        let anew = if let Some(origin) = &self.origin {
            origin()?
        } else {
            let anew = self.template().anew();
            anew.boot()?;
            anew
        };
        let template = KvmSandbox::fork_of(&anew).ok_or_else(no_golden_state)?;
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(anew);
        *self.template() = template;
        Ok(())
    }

    /// All of its RAM: a guest that writes everywhere shares nothing any more.
    fn bytes_per_machine(&self) -> u64 {
        self.bytes_per_machine
    }
}

fn no_golden_state() -> SandboxError {
    SandboxError::NotAvailable {
        reason:
            "a pool forks a golden state, and the sandbox has none: ask for resets and boot it \
                 first"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageSource, KvmConfig, Resets, SandboxSpec};

    #[test]
    fn a_sandbox_that_was_not_booted_is_refused() {
        let image = ImageSource::directory("/nonexistent");
        let spec = SandboxSpec::new(image).with_resets(Resets::None);
        let sandbox = KvmSandbox::new(spec, KvmConfig::default());
        let error = KvmSource::new(sandbox).err().unwrap();
        assert_eq!(error.code(), "SANDBOX_NOT_AVAILABLE");
        assert!(error.to_string().contains("boot it"), "{error}");
    }
}
