//! Work that a vCPU's thread does for another thread.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use super::VcpuControl;

/// A job that a vCPU's thread does, or will do.
pub struct VcpuCall<T> {
    vcpu: Arc<VcpuControl>,
    answer: Receiver<T>,
}

/// Why a job was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// The vCPU did not leave the guest in time. The job was taken back.
    Stuck,
    /// The vCPU's thread has ended, or ended instead of doing the job.
    Ended,
}

impl VcpuControl {
    /// Takes the vCPU out of the guest and does `job` on its thread, as [`VcpuControl::post`] does.
    /// Returns at once; [`VcpuCall::wait`] gives what the job returns.
    pub fn call<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> VcpuCall<T> {
        let (result, answer) = mpsc::sync_channel(1);
        self.post(Box::new(move || {
            // The caller has stopped waiting when the machine is going down.
            let _ = result.send(job());
        }));
        self.awaiting(answer)
    }

    /// A call of a job that was posted already and sends to the other end of `answer`. Serves jobs
    /// that answer more than once.
    pub fn awaiting<T>(self: &Arc<Self>, answer: Receiver<T>) -> VcpuCall<T> {
        VcpuCall { vcpu: Arc::clone(self), answer }
    }
}

impl<T> VcpuCall<T> {
    /// Waits for the job to be done. `limit` is how long the vCPU may take to leave the guest; a job
    /// that has begun takes as long as it takes.
    ///
    /// # Errors
    ///
    /// The vCPU did not leave the guest in time, or its thread has ended.
    pub fn wait(self, limit: Duration) -> Result<T, CallError> {
        loop {
            match self.answer.recv_timeout(limit) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) if self.vcpu.withdraw() => {
                    return Err(CallError::Stuck);
                }
                // It has begun: a large memory takes its time.
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(CallError::Ended),
            }
        }
    }
}
