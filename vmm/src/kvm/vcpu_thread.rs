//! Threads that run vCPUs, and how other threads make them stop.
//!
//! A kick must not be lost between the moment a thread decides to enter the guest and the moment
//! it has entered. The kicking thread writes its request before it sets
//! `kvm_run.immediate_exit`, and the vCPU thread clears `immediate_exit` before it reads the request
//! (api.rst 5, `immediate_exit`). The signal only interrupts a vCPU that is in the guest.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use super::{KvmError, Vcpu};

/// What a vCPU thread is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VcpuRequest {
    Run,
    Park,
    Exit,
}

/// Work for a vCPU's thread while it is out of the guest.
pub type Job = Box<dyn FnOnce() + Send>;

struct Inner {
    request: VcpuRequest,
    /// A job that the thread does before anything else, with the vCPU out of the guest.
    job: Option<Job>,
    ended: bool,
    parked: bool,
    /// When the vCPU was last let run.
    entered: Option<Instant>,
    /// Kernel id of the thread while it exists. The thread clears it before it ends, under the lock
    /// that a kick holds, so that a kick never hits another thread with the same id.
    thread: Option<libc::pid_t>,
}

/// How other threads control one vCPU thread.
pub struct VcpuControl {
    inner: Mutex<Inner>,
    changed: Condvar,
    immediate_exit: ImmediateExit,
    vcpu: Arc<Mutex<Vcpu>>,
}

/// `kvm_run.immediate_exit`, shared with the kernel and with kicking threads.
struct ImmediateExit(*const AtomicU8);

// SAFETY: the byte lies in the vCPU's shared `kvm_run` mapping, which `VcpuControl` keeps alive
// through its `Arc<Mutex<Vcpu>>`, and is only accessed atomically.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn of(vcpu: &mut Vcpu) -> Self {
        Self((&raw mut vcpu.arch.fd.get_kvm_run().immediate_exit).cast::<AtomicU8>())
    }

    fn set(&self, value: u8) {
        // SAFETY: see the `Send` implementation.
        unsafe { &*self.0 }.store(value, Ordering::SeqCst);
    }
}

impl VcpuControl {
    /// A control for `vcpu`, whose thread starts parked ([`VcpuThread::spawn`]).
    pub fn new(mut vcpu: Vcpu) -> Arc<Self> {
        let immediate_exit = ImmediateExit::of(&mut vcpu);
        Arc::new(Self {
            inner: Mutex::new(Inner {
                request: VcpuRequest::Park,
                job: None,
                ended: false,
                parked: false,
                entered: None,
                thread: None,
            }),
            changed: Condvar::new(),
            immediate_exit,
            vcpu: Arc::new(Mutex::new(vcpu)),
        })
    }

    /// Asks the thread to let the vCPU run. Returns at once.
    pub fn run(&self) {
        self.ask(VcpuRequest::Run);
    }

    /// Asks the vCPU to leave the guest and wait. Returns at once.
    pub fn park(&self) {
        self.ask(VcpuRequest::Park);
    }

    /// Asks the thread to end. Returns at once. A thread that was asked to end
    /// takes no other request.
    pub fn exit(&self) {
        self.ask(VcpuRequest::Exit);
    }

    /// Asks the thread to take the vCPU out of the guest and to do `job`. That thread's processor has
    /// the vCPU's state and the pages it has written in its caches. Afterwards the vCPU is parked,
    /// unless the job itself lets it run. Returns at once. A thread that has ended drops the job.
    pub fn post(&self, job: Job) {
        let mut inner = self.lock();
        if inner.request == VcpuRequest::Exit || inner.ended {
            return;
        }
        inner.job = Some(job);
        drop(inner);
        self.ask(VcpuRequest::Park);
    }

    /// Takes back a job that has not begun. False when it has.
    pub fn withdraw(&self) -> bool {
        self.lock().job.take().is_some()
    }

    /// Waits until the vCPU is parked or its thread has ended. False when `deadline` passes first.
    pub fn wait_parked(&self, deadline: Instant) -> bool {
        let mut inner = self.lock();
        while !inner.parked {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            (inner, _) = self
                .changed
                .wait_timeout(inner, left.max(Duration::from_micros(1)))
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// When the vCPU was last let run.
    pub fn entered(&self) -> Option<Instant> {
        self.lock().entered
    }

    /// Locks the vCPU. Its thread holds this lock while the vCPU runs, so callers park it first.
    pub fn vcpu(&self) -> MutexGuard<'_, Vcpu> {
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, request: VcpuRequest) {
        let mut inner = self.lock();
        if inner.request == VcpuRequest::Exit {
            return;
        }
        inner.request = request;
        if request == VcpuRequest::Run {
            inner.parked = false;
        } else {
            self.immediate_exit.set(1);
            if let Some(thread) = inner.thread {
                signal(thread);
            }
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// True when the guest may be entered. Clears a kick before looking for its reason.
    fn may_run(&self) -> bool {
        self.immediate_exit.set(0);
        self.lock().request == VcpuRequest::Run
    }

    /// Waits for a request other than `Park`. False when it is `Exit`.
    fn wait_for_work(&self) -> bool {
        let mut inner = self.lock();
        loop {
            match inner.request {
                VcpuRequest::Run => {
                    inner.entered = Some(Instant::now());
                    return true;
                }
                VcpuRequest::Exit => return false,
                VcpuRequest::Park => {
                    if let Some(job) = inner.job.take() {
                        drop(inner);
                        job();
                        inner = self.lock();
                        continue;
                    }
                    inner.parked = true;
                    self.changed.notify_all();
                    inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// What the code that handles exits wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Enter the guest again.
    Enter,
    /// Look at the request: a kick took the vCPU out of the guest.
    Kicked,
    /// The machine is over.
    Stop,
}

/// Why a vCPU's thread is about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to, by another thread or by what an exit meant.
    Asked,
    /// Handling an exit or doing a job panicked.
    Panicked,
    /// The host does not let kicks through. The vCPU was not entered.
    CannotBeStopped,
}

/// A thread that runs one vCPU.
pub struct VcpuThread {
    control: Arc<VcpuControl>,
    thread: Option<JoinHandle<()>>,
}

impl VcpuThread {
    /// Starts a parked thread. `step` enters the guest once and handles the exit; `at_end` runs
    /// when the thread is about to end, with no lock held.
    ///
    /// # Errors
    ///
    /// The host refuses the signal handler for kicks, or the thread.
    pub fn spawn(
        name: String,
        control: Arc<VcpuControl>,
        mut step: impl FnMut(&mut Vcpu) -> Next + Send + 'static,
        at_end: impl FnOnce(Ended) + Send + 'static,
    ) -> Result<Self, KvmError> {
        install_kick_handler()?;
        let worker = Arc::clone(&control);
        let body = move || {
            // Inherited from a program that may have blocked it: then no kick would arrive.
            let kicks = unblock_signal(SIGRTMIN());
            super::thread_start::run();
            worker.lock().thread = Some(current_thread());
            let work = || {
                while worker.wait_for_work() {
                    let mut vcpu = worker.vcpu();
                    while worker.may_run() {
                        let mut next = step(&mut vcpu);
                        while next == Next::Enter {
                            next = step(&mut vcpu);
                        }
                        if next == Next::Stop {
                            worker.exit();
                        }
                    }
                }
            };
            // The machine ends with a thread that panicked; no thread uses what the panic left.
            let ended = match kicks {
                Ok(()) if panic::catch_unwind(AssertUnwindSafe(work)).is_ok() => Ended::Asked,
                Ok(()) => Ended::Panicked,
                Err(_) => Ended::CannotBeStopped,
            };
            worker.exit();
            at_end(ended);
            let mut inner = worker.lock();
            inner.thread = None;
            inner.ended = true;
            let job = inner.job.take();
            inner.parked = true;
            drop(inner);
            drop(job);
            worker.changed.notify_all();
        };
        let thread = thread::Builder::new().name(name).spawn(body).map_err(thread_error)?;
        Ok(Self { control, thread: Some(thread) })
    }

    /// How other threads control this one.
    pub fn control(&self) -> &Arc<VcpuControl> {
        &self.control
    }

    /// Ends the thread and waits for it.
    pub fn join(&mut self) {
        self.control.exit();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.join();
    }
}

fn thread_error(source: io::Error) -> KvmError {
    KvmError::Ioctl { ioctl: "starting a vCPU thread", source }
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs a signal handler that does nothing: the signal only has to interrupt `KVM_RUN`.
fn install_kick_handler() -> Result<(), KvmError> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*installed {
        register_signal_handler(SIGRTMIN(), on_kick).map_err(|e| KvmError::Ioctl {
            ioctl: "installing the vCPU kick signal",
            source: io::Error::from_raw_os_error(e.errno()),
        })?;
        *installed = true;
    }
    Ok(())
}

fn current_thread() -> libc::pid_t {
    rustix::thread::gettid().as_raw_nonzero().get()
}

fn signal(thread: libc::pid_t) {
    // SAFETY: tgkill takes three integers and touches no memory. The thread belongs to this
    // process and still exists: it clears its id under the lock the caller holds.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGRTMIN()) };
}
