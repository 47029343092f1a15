//! The machines that commands run on, and what happens when the first of them is not as installed.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sandbox::{
    Cause, ForensicDump, Incident, IncidentHandler, KvmConfig, KvmSandbox, KvmSource, Resets,
    Sandbox, SandboxError, SandboxSpec,
};
use serde_json::json;
use tracing::{info, warn};
use vmm::IntegrityPlan;

use super::AppError;
use crate::baselines::machine::restore_installed;
use crate::baselines::{self, BaselineStore, Fallback, Started};
use crate::degraded::IncidentRecord;
use crate::service::Prerequisites;
use crate::store::note::{note_in_audit, note_with_code};

/// Makes the first machine, and the source of all others. Machines are restored from what is installed
/// and compared with it, also when they are recaptured. Where nothing is installed they are booted.
pub(super) fn machines(
    prerequisites: &Prerequisites,
    spec: SandboxSpec,
    config: KvmConfig,
) -> Result<KvmSource, AppError> {
    let (begun, integrity) = (Instant::now(), config.integrity);
    let guard = &prerequisites.degraded;
    let store = BaselineStore::new(prerequisites.state_dir.path(), &*prerequisites.key_holder);
    let started = baselines::start(&store, |record, fallback| {
        // Where there is something to go back to, that is what follows.
        let nowhere = fallback == Fallback::None;
        let guard = nowhere.then(|| Arc::clone(guard) as Arc<dyn IncidentHandler>);
        Ok((restore_installed(&spec, &config, record, guard)?, record.clone()))
    })?;
    let Some(Started { made: (sandbox, record), slot, rolled_back }) = started else {
        info!("nothing is installed: resets are compared with what is measured now");
        // A result is only worth something with a verified reset.
        let sandbox = KvmSandbox::new(spec.with_resets(Resets::Verified), config);
        sandbox.set_incident_handler(Arc::clone(guard) as _);
        let boot = sandbox.boot().map_err(AppError::Boot)?;
        info!(took_ms = boot.total.as_millis(), "the first machine is ready");
        log_scrub_period(&sandbox, integrity);
        return KvmSource::new(sandbox).map_err(AppError::Boot);
    };
    sandbox.set_incident_handler(Arc::clone(guard) as _);
    if let Some(reason) = rolled_back {
        let payload = json!({"slot": slot.name(), "reason": reason});
        if let Err(error) = note_in_audit(&prerequisites.state_dir, "BaselinesRolledBack", &payload)
        {
            warn!(%error, "the audit log does not say that the agent went back to another slot");
        }
    }
    let took_ms = begun.elapsed().as_millis();
    log_scrub_period(&sandbox, integrity);
    info!(slot = slot.name(), took_ms, "the first machine is as it was installed");
    let guard = Arc::clone(guard);
    let origin = move || {
        restore_installed(&spec, &config, &record, Some(Arc::clone(&guard) as _)).map_err(|error| {
            SandboxError::BootFailed { reason: error.to_string(), console: Vec::new() }
        })
    };
    Ok(KvmSource::new(sandbox).map_err(AppError::Boot)?.recaptured_from(Box::new(origin)))
}

/// Latches degraded mode when the first machine was not as it was installed, so that commands stay
/// refused also when the next start finds nothing wrong. The latch is on disk when this returns, and the
/// audit log says why.
pub(super) fn latch_incident(prerequisites: &Prerequisites, error: &AppError) {
    let degraded = &prerequisites.degraded;
    let mut news = degraded.take_news();
    if let AppError::Baselines(error) = error
        && let Some(reason) = error.alarm()
        && news.is_empty()
    {
        let (at, cause) = (SystemTime::now(), Cause::NotAsInstalled(reason));
        degraded.halt(&Incident { at, command_id: None, cause, dump: ForensicDump::default() });
        news = degraded.take_news();
    }
    for record in news {
        let noted = serde_json::to_value(&*record).map_err(|error| error.to_string());
        let noted = noted.and_then(|payload| {
            let (dir, code) = (&prerequisites.state_dir, Some(record.code.as_str()));
            note_with_code(dir, IncidentRecord::KIND, code, &payload)
                .map_err(|error| error.to_string())
        });
        if let Err(error) = noted {
            warn!(error, "an incident is not in the audit log");
        }
    }
}

/// Logs after how many resets the scrub has read all of the disk and all of memory once.
fn log_scrub_period(sandbox: &KvmSandbox, integrity: IntegrityPlan) {
    if let Some(golden) = sandbox.golden() {
        let (disk, memory) = integrity.resets_for_all(&golden);
        info!(disk, memory, "resets until all of the disk, and all of memory, has been read again");
    }
}
