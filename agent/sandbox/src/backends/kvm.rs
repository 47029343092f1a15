//! A sandbox in a KVM machine that lives in this process.

mod admission;
mod boot;
mod command;
mod compare;
mod config;
mod connected;
mod exclusive;
mod faults;
mod forensics;
mod freshness;
mod golden;
mod hot_pages;
mod image;
mod observe;
mod recover;
mod reports;
mod scrub;
mod snapshot;
mod source;
mod verify;

use std::any::Any;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use guest::wire::QueryKind;
use tracing::{info, warn};
use vmm::{Golden, Machine, ResetReport};

use crate::channel::{ChannelCounters, ChannelError};
use crate::error::SandboxError;
use crate::state::{BootReport, ResetOutcome, SandboxState};
use crate::verify::{Verification, VerifiedReset};
use crate::{
    Cause, ForensicDump, Incident, IncidentHandler, QueryAnswer, Sandbox, SandboxSpec, ToolCall,
    ToolOutcome, query,
};
use admission::{Admission, Gate};
pub use config::KvmConfig;
use connected::Connected;
#[cfg(feature = "testing")]
pub use faults::{FaultInjector, FaultPoint};
use golden::GoldenSandbox;
pub use image::KvmImage;
pub use source::KvmSource;

/// A sandbox in a KVM machine.
pub struct KvmSandbox {
    inner: Mutex<Inner>,
    /// A boot ended, one way or the other.
    phase_changed: Condvar,
    #[cfg(feature = "testing")]
    fault_injector: Mutex<Option<FaultInjector>>,
    /// Forks have the same.
    incident_handler: Mutex<Option<Arc<dyn IncidentHandler>>>,
}

struct Inner {
    spec: SandboxSpec,
    config: KvmConfig,
    /// Loaded once, used by every boot.
    image: Option<Arc<KvmImage>>,
    /// Captured by the first boot, the start of every later one.
    golden: Option<Arc<GoldenSandbox>>,
    /// Why the machine is gone, until a caller has asked for it.
    failed: Option<Verification>,
    phase: Phase,
    /// Counts boots and shutdowns: a boot that finds another number when it is done was overtaken.
    epoch: u64,
}

enum Phase {
    NotBooted,
    Booting(Option<Arc<Machine>>),
    Ready(Arc<Connected>),
    Resetting(Arc<Connected>),
    Failed(String),
}

impl KvmSandbox {
    /// A sandbox that is not booted. Its image is loaded by the first boot.
    pub fn new(spec: SandboxSpec, config: KvmConfig) -> Self {
        let phase = Phase::NotBooted;
        let (image, golden, failed) = (None, None, None);
        let inner = Inner { spec, config, image, golden, failed, phase, epoch: 0 };
        Self {
            inner: Mutex::new(inner),
            phase_changed: Condvar::new(),
            #[cfg(feature = "testing")]
            fault_injector: Mutex::default(),
            incident_handler: Mutex::default(),
        }
    }

    /// A sandbox with an image that is loaded already, so that several can share it.
    pub fn with_image(spec: SandboxSpec, config: KvmConfig, image: Arc<KvmImage>) -> Self {
        let sandbox = Self::new(spec, config);
        sandbox.lock().image = Some(image);
        sandbox
    }

    /// A sandbox whose boots start from a snapshot that has been loaded: no kernel boots. The image
    /// must be the one the snapshot was made of, which loading it has checked.
    ///
    /// # Errors
    ///
    /// The golden state was made with other settings.
    pub fn restore(
        spec: SandboxSpec,
        config: KvmConfig,
        image: Arc<KvmImage>,
        golden: Arc<Golden>,
    ) -> Result<Self, SandboxError> {
        let gate = Gate::new(image.manifest(), &spec.enable_tools)
            .map_err(|e| boot::registry_failed(&e))?;
        let port = config.guest_port(&image);
        let golden = GoldenSandbox::restored(golden, Arc::new(gate), port)?;
        let sandbox = Self::with_image(spec, config, image);
        sandbox.lock().golden = Some(Arc::new(golden));
        Ok(sandbox)
    }

    /// A sandbox whose boots fork the machine that `other` captured. They share golden memory and
    /// the golden disk. `None` until `other` has booted as one that
    /// can be reset.
    pub fn fork_of(other: &Self) -> Option<Self> {
        let inner = other.lock();
        let golden = inner.golden.clone()?;
        let sandbox = Self::new(inner.spec.clone(), inner.config.clone());
        *sandbox.incident_handler.lock().unwrap_or_else(PoisonError::into_inner) =
            other.incident_handler();
        {
            let mut forked = sandbox.lock();
            forked.image.clone_from(&inner.image);
            forked.golden = Some(golden);
        }
        Some(sandbox)
    }

    /// A sandbox of the same configuration and with the same guard that shares nothing with this
    /// one: its first boot reads the image again.
    #[must_use]
    pub fn anew(&self) -> Self {
        let sandbox = {
            let inner = self.lock();
            Self::new(inner.spec.clone(), inner.config.clone())
        };
        *sandbox.incident_handler.lock().unwrap_or_else(PoisonError::into_inner) =
            self.incident_handler();
        sandbox
    }

    /// Has `handler` told of every machine of this sandbox, and of forks made from now on, that
    /// does not pass a verification or cannot be reset.
    pub fn set_incident_handler(&self, handler: Arc<dyn IncidentHandler>) {
        *self.incident_handler.lock().unwrap_or_else(PoisonError::into_inner) = Some(handler);
    }

    fn incident_handler(&self) -> Option<Arc<dyn IncidentHandler>> {
        self.incident_handler.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the guard, if there is one.
    fn report_incident(
        &self,
        connected: &Connected,
        cause: Cause,
        dump: impl FnOnce() -> ForensicDump,
    ) {
        if let Some(guard) = self.incident_handler() {
            let (at, command_id) = (SystemTime::now(), connected.last_command());
            guard.on_incident(Incident { at, command_id, cause, dump: dump() });
        }
    }

    /// This sandbox, when it is one in a KVM machine.
    pub fn of(sandbox: Arc<dyn Sandbox>) -> Option<Arc<Self>> {
        let sandbox: Arc<dyn Any + Send + Sync> = sandbox;
        sandbox.downcast().ok()
    }

    /// The machine behind a ready sandbox, to look at. What is done to it behind the sandbox's back
    /// counts as the guest's doing: the next reset undoes it.
    pub fn machine(&self) -> Option<Arc<Machine>> {
        match &self.lock().phase {
            Phase::Ready(connected) | Phase::Resetting(connected) => {
                Some(Arc::clone(&connected.machine))
            }
            Phase::NotBooted | Phase::Booting(_) | Phase::Failed(_) => None,
        }
    }

    /// The golden state, once there is one.
    pub fn golden(&self) -> Option<Arc<Golden>> {
        self.lock().golden.as_ref().map(|golden| Arc::clone(golden.golden()))
    }

    /// Resets the sandbox like [`Sandbox::reset`] and also returns what its machine reports.
    ///
    /// # Errors
    ///
    /// As for [`Sandbox::reset`].
    pub fn reset_reported(&self) -> Result<(ResetOutcome, ResetReport), SandboxError> {
        let connected = self.ready_to_reset()?;
        self.reset_connected(&connected, None)
    }

    /// Sets what the next boot makes. Refused while there is a machine made of something else.
    ///
    /// # Errors
    ///
    /// There is a machine, and it is made of something else.
    pub fn configure(&self, spec: SandboxSpec, config: KvmConfig) -> Result<(), SandboxError> {
        let mut inner = self.lock();
        if (&inner.spec, &inner.config) == (&spec, &config) {
            return Ok(());
        }
        if matches!(inner.phase, Phase::Booting(_) | Phase::Ready(_) | Phase::Resetting(_)) {
            return Err(not_available(
                "the sandbox is in use with another configuration: shut it down first",
            ));
        }
        if inner.spec.image != spec.image {
            inner.image = None;
        }
        inner.golden = None;
        (inner.spec, inner.config) = (spec, config);
        Ok(())
    }

    /// Counts of what the guest sent unasked; `None` without a machine.
    pub fn counters(&self) -> Option<ChannelCounters> {
        match &self.lock().phase {
            Phase::Ready(connected) | Phase::Resetting(connected) => {
                Some(connected.channel().counters())
            }
            Phase::NotBooted | Phase::Booting(_) | Phase::Failed(_) => None,
        }
    }

    fn start(
        &self,
        spec: &SandboxSpec,
        config: &KvmConfig,
        epoch: u64,
    ) -> Result<Connected, SandboxError> {
        let begun = Instant::now();
        let (known, golden) = {
            let inner = self.lock();
            (inner.image.clone(), inner.golden.clone())
        };
        if let (Some(golden), Some(strategy)) = (golden, config.strategy(spec)) {
            let mut connected = golden.fork(|machine| self.register(epoch, machine))?;
            hot_pages::profile(&connected, &golden, strategy)?;
            verify::prepare(self, spec, config, &golden, &mut connected)?;
            connected.report.total = begun.elapsed();
            return Ok(connected);
        }
        let image = match known {
            Some(image) => image,
            None => Arc::new(KvmImage::open(&spec.image).map_err(|e| boot::image_failed(&e))?),
        };
        let image_took = begun.elapsed();
        let gate = Gate::new(image.manifest(), &spec.enable_tools)
            .map_err(|e| boot::registry_failed(&e))?;
        let register = |machine: &Arc<Machine>| {
            self.register(epoch, machine) && {
                self.lock().image = Some(Arc::clone(&image));
                true
            }
        };
        let mut connected = boot::start(spec, config, &image, gate, register)?;
        connected.report.image = image_took;
        if let Some(strategy) = config.strategy(spec) {
            let capturing = Instant::now();
            let golden =
                GoldenSandbox::capture(&connected).inspect_err(|_| connected.machine.shutdown())?;
            hot_pages::profile(&connected, &golden, strategy)?;
            connected.report.capture = capturing.elapsed();
            verify::prepare(self, spec, config, &golden, &mut connected)?;
            let mut inner = self.lock();
            if inner.epoch == epoch {
                inner.golden = Some(Arc::new(golden));
            }
        }
        connected.report.total = begun.elapsed();
        Ok(connected)
    }

    /// Makes a machine known that is about to run. False when the boot was overtaken.
    fn register(&self, epoch: u64, machine: &Arc<Machine>) -> bool {
        let mut inner = self.lock();
        let current = inner.epoch == epoch;
        if current {
            inner.phase = Phase::Booting(Some(Arc::clone(machine)));
        }
        current
    }

    /// Makes the result of a boot known to every caller that waits for it.
    fn finish_boot(
        &self,
        epoch: u64,
        result: Result<Connected, SandboxError>,
    ) -> Result<BootReport, SandboxError> {
        let mut inner = self.lock();
        if inner.epoch != epoch {
            // Dropping the machine ends it.
            return Err(not_available("the sandbox was shut down while it was booting"));
        }
        let (phase, result) = match result {
            Ok(connected) => {
                let report = connected.report.clone();
                info!(total = ?report.total, to_ready = ?report.to_ready, "sandbox is ready");
                (Phase::Ready(Arc::new(connected)), Ok(report))
            }
            Err(error) => {
                warn!(code = error.code(), %error, "sandbox did not boot");
                (Phase::Failed(error.to_string()), Err(error))
            }
        };
        inner.phase = phase;
        drop(inner);
        self.phase_changed.notify_all();
        result
    }

    /// The machine, if it can be used. Waits for a reset that is under way.
    fn ready(&self) -> Result<Arc<Connected>, SandboxError> {
        let mut inner = self.lock();
        loop {
            match &inner.phase {
                Phase::Ready(connected) => return Ok(Arc::clone(connected)),
                Phase::Resetting(_) => {
                    inner = self.phase_changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                }
                Phase::NotBooted => {
                    return Err(not_available("the sandbox is not booted: boot it first"));
                }
                Phase::Booting(_) => {
                    return Err(not_available("the sandbox is still booting: wait for it"));
                }
                Phase::Failed(reason) => {
                    return Err(not_available(&format!(
                        "the sandbox failed earlier and has to be booted again: {reason}"
                    )));
                }
            }
        }
    }

    fn is_ready_with(&self, connected: &Arc<Connected>) -> bool {
        matches!(&self.lock().phase, Phase::Ready(current) if Arc::ptr_eq(current, connected))
    }

    /// Ends a machine that must not be used again.
    fn condemn(&self, connected: &Arc<Connected>, reason: &str) {
        let mut inner = self.lock();
        if matches!(&inner.phase, Phase::Ready(current) if Arc::ptr_eq(current, connected)) {
            warn!(reason, "ending the machine");
            inner.phase = Phase::Failed(reason.to_owned());
        }
        drop(inner);
        connected.machine.shutdown();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandbox for KvmSandbox {
    fn boot(&self) -> Result<BootReport, SandboxError> {
        // A machine that stopped unnoticed must not count as ready.
        self.state();
        let mut inner = self.lock();
        let mut waited = false;
        loop {
            match &inner.phase {
                Phase::Ready(connected) => return Ok(connected.report.clone()),
                Phase::Booting(_) | Phase::Resetting(_) => {
                    waited = true;
                    inner = self.phase_changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                }
                Phase::Failed(reason) if waited => {
                    let (reason, console) = (reason.clone(), Vec::new());
                    return Err(SandboxError::BootFailed { reason, console });
                }
                Phase::NotBooted | Phase::Failed(_) => break,
            }
        }
        inner.epoch += 1;
        inner.phase = Phase::Booting(None);
        inner.failed = None;
        let (spec, config, epoch) = (inner.spec.clone(), inner.config.clone(), inner.epoch);
        drop(inner);
        let result = self.start(&spec, &config, epoch);
        self.finish_boot(epoch, result)
    }

    fn execute_tool(&self, call: ToolCall) -> Result<ToolOutcome, SandboxError> {
        let begun = Instant::now();
        let connected = self.ready()?;
        match connected.gate.admit(&call)? {
            Admission::Refused(outcome) => Ok(*outcome),
            Admission::Admitted(admitted) => self.run(&connected, call, &admitted, begun),
        }
    }

    fn query(&self, kind: QueryKind) -> Result<QueryAnswer, SandboxError> {
        let connected = self.ready()?;
        let limit = query::limit(kind);
        let call = connected.call();
        let result = connected.query(kind, limit);
        drop(call);
        result.map_err(|error| match error {
            ChannelError::TimedOut { .. } => {
                SandboxError::QuerySilent { query: format!("{kind:?}"), limit }
            }
            ChannelError::DuplicateRequest { .. } | ChannelError::Refused { .. } => error.into(),
            error => self.broken(&connected, error),
        })
    }

    fn reset(&self) -> Result<ResetOutcome, SandboxError> {
        self.reset_reported().map(|(outcome, _)| outcome)
    }

    fn reset_and_verify(&self) -> Result<VerifiedReset, SandboxError> {
        // Found while the command was ended, or its machine replaced, and the machine is gone since.
        let failed = || self.lock().failed.take();
        let verification = match failed() {
            Some(verification) => verification,
            None => match self.ready_to_reset() {
                Ok(connected) => return self.verify_connected(&connected),
                Err(error) => failed().ok_or(error)?,
            },
        };
        Ok(VerifiedReset { outcome: None, verification })
    }

    fn scrub(&self) -> Option<Verification> {
        self.scrub_idle()
    }

    fn shutdown(&self) {
        let mut inner = self.lock();
        inner.epoch += 1;
        let phase = std::mem::replace(&mut inner.phase, Phase::NotBooted);
        drop(inner);
        self.phase_changed.notify_all();
        match phase {
            Phase::Booting(Some(machine)) => machine.shutdown(),
            Phase::Ready(connected) | Phase::Resetting(connected) => connected.machine.shutdown(),
            Phase::Booting(None) | Phase::NotBooted | Phase::Failed(_) => {}
        }
    }

    fn state(&self) -> SandboxState {
        let connected = match &self.lock().phase {
            Phase::NotBooted => return SandboxState::NotBooted,
            Phase::Booting(_) => return SandboxState::Booting,
            Phase::Resetting(_) => return SandboxState::Resetting,
            Phase::Failed(reason) => return SandboxState::Failed { reason: reason.clone() },
            Phase::Ready(connected) => Arc::clone(connected),
        };
        // Looking at the channel may take a moment: no other caller should wait for it.
        match connected.fault() {
            None => SandboxState::Ready,
            Some(error) => {
                let reason = error.to_string();
                self.condemn(&connected, &reason);
                SandboxState::Failed { reason }
            }
        }
    }
}

impl Drop for KvmSandbox {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn not_available(reason: &str) -> SandboxError {
    SandboxError::NotAvailable { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
