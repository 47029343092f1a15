//! Starts QEMU for one run, listens to the program inside, and sees to QEMU's end.

mod monitor;
mod nudge;

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, BufReader, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use self::nudge::Nudges;
use super::inside::PORT_NAME;
use super::job::Observer;
use super::queue::Queue;
use super::wire::{self, Message, Notice, Order};

/// Lines of the kernel console shown with a failure.
const CONSOLE_LINES: usize = 60;
/// Longest path of a socket, unix(7): without its monitor QEMU works as well.
const SOCKET_PATH: usize = 108;
/// An exiting QEMU closes its end of the port a moment before it can be waited for.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// A machine that works says so every other second, but a busy host can hold it up for a while.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(90);

/// Booting takes a few seconds, and half a minute on a host that is busy with other things.
pub const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// Why a run in the nested machine gave no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum NestedError {
    #[error("cannot start the emulator {program}: {source}; it is in package qemu-system-x86")]
    Start { program: String, source: io::Error },
    #[error("cannot prepare the nested machine: {0}")]
    Files(String),
    #[error("the nested machine did not boot within {limit:?} and was ended\n{logs}")]
    NotBooted { limit: Duration, logs: String },
    #[error("the nested machine passed its limit of {limit:?} {during} and was ended\n{logs}")]
    TimedOut { limit: Duration, during: Phase, logs: String },
    #[error("the nested machine stood still for {silence:?} {during} and was ended\n{logs}")]
    StoodStill { silence: Duration, during: Phase, logs: String },
    #[error(
        "nothing was printed for a long time {during}, though the nested machine works; its processes:\n{report}\n{logs}"
    )]
    Stuck { during: Phase, report: String, logs: String },
    #[error("the nested machine ended ({status}) {during}\n{logs}")]
    EndedEarly { status: String, during: Phase, logs: String },
    #[error("the nested machine is of no use: {why}\n{logs}")]
    Unusable { why: String, logs: String },
    #[error("the nested machine's report is damaged {during}: {source}\n{logs}")]
    Damaged { during: Phase, source: io::Error, logs: String },
}

/// What to start and where its files are.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// The QEMU program.
    pub program: PathBuf,
    /// Processors it emulates.
    pub processors: u32,
    /// Directories with its firmware; none where it knows its own.
    pub firmware: Vec<PathBuf>,
    /// Uncompressed kernel.
    pub kernel: PathBuf,
    /// Initramfs, with this run's jobs in it.
    pub initrd: PathBuf,
    /// Directory for this run's logs.
    pub logs: PathBuf,
    /// How long the machine may take to come up.
    pub boot_limit: Duration,
    /// How long it may say nothing at all once it is up.
    pub silence_limit: Duration,
}

impl Emulator {
    /// Boots the machine, gives it jobs from the queue until none waits, and ends the machine.
    /// `running` is the job that was given to it and has not ended.
    pub fn run(
        &self,
        queue: &Queue,
        limit: Duration,
        observer: &mut dyn Observer,
        running: &mut Option<usize>,
    ) -> Result<(), NestedError> {
        let boot_limit = limit.min(self.boot_limit);
        let start = Instant::now();
        let mut qemu = self.start()?;
        let mut port = BufReader::new(DeadlineStream {
            stream: qemu.port.take(),
            deadline: start + boot_limit,
            silence_limit: Duration::MAX,
        });
        let mut during = Phase::Boot;
        let up = Patience { deadline: start + limit, silence: self.silence_limit };
        let mut assignments = Assignments { queue, running };
        let outcome = follow(&mut port, up, &mut assignments, observer, &mut during);
        let logs = || self.last_lines();
        match (outcome, during) {
            (Ok(()), _) => Ok(()),
            (Err(LostContact::Unusable(why)), _) => {
                Err(NestedError::Unusable { why, logs: logs() })
            }
            (Err(LostContact::Stuck(report)), during) => {
                qemu.end();
                Err(NestedError::Stuck { during, report, logs: logs() })
            }
            (Err(LostContact::Silent), during) => {
                let status = qemu.exit_status();
                Err(NestedError::EndedEarly { status, during, logs: logs() })
            }
            (Err(LostContact::Broken(e)), during) if e.kind() == io::ErrorKind::TimedOut => {
                if during != Phase::Boot {
                    monitor::save_registers(&self.monitor(), &self.registers());
                }
                qemu.end();
                Err(match during {
                    Phase::Boot => NestedError::NotBooted { limit: boot_limit, logs: logs() },
                    _ if Instant::now() < up.deadline => {
                        NestedError::StoodStill { silence: up.silence, during, logs: logs() }
                    }
                    _ => NestedError::TimedOut { limit, during, logs: logs() },
                })
            }
            (Err(LostContact::Broken(source)), during) => {
                Err(NestedError::Damaged { during, source, logs: logs() })
            }
        }
    }

    fn start(&self) -> Result<RunningQemu, NestedError> {
        let failed =
            |source| NestedError::Start { program: self.program.display().to_string(), source };
        let messages = fs::File::create(self.messages()).map_err(failed)?;
        let (port, qemus_end) = UnixStream::pair().map_err(failed)?;
        // setpriv becomes QEMU, keeping the process id; the kernel then ends QEMU with us.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(self.arguments())
            .stdin(OwnedFd::from(qemus_end))
            .stdout(messages.try_clone().map_err(failed)?)
            .stderr(messages)
            .spawn()
            .map_err(failed)?;
        let nudges = Nudges::start(&port).map_err(failed)?;
        Ok(RunningQemu { child, port: Some(port), _nudges: nudges })
    }

    /// QEMU's arguments: an emulated AMD processor whose SVM the guest's KVM makes use of.
    fn arguments(&self) -> Vec<String> {
        let fixed = "-M q35 -accel tcg,thread=multi -cpu EPYC,+svm,+npt -m 4096 \
             -nodefaults -display none -no-reboot -device virtio-serial-pci \
             -virtfs local,path=/,mount_tag=host0,security_model=none,multidevs=remap";
        let mut arguments: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
        for directory in &self.firmware {
            arguments.extend(["-L".to_owned(), directory.display().to_string()]);
        }
        let console = escape_commas(&self.console());
        for argument in [
            "-smp",
            &self.processors.to_string(),
            "-kernel",
            &self.kernel.display().to_string(),
            "-initrd",
            &self.initrd.display().to_string(),
            "-append",
            // On a busy host the check takes the timer for broken, and the kernel panics.
            "console=ttyS0 panic=-1 quiet mitigations=off no_timer_check",
            "-chardev",
            &format!("file,id=console,path={console}"),
            "-serial",
            "chardev:console",
            // The port is the socket that is QEMU's standard input.
            "-chardev",
            "socket,id=port,fd=0",
            "-device",
            &format!("virtserialport,chardev=port,name={PORT_NAME}"),
        ] {
            arguments.push(argument.to_owned());
        }
        let monitor = self.monitor();
        if monitor.as_os_str().len() < SOCKET_PATH {
            let socket = format!("unix:{},server=on,wait=off", escape_commas(&monitor));
            arguments.extend(["-monitor".to_owned(), socket]);
        }
        arguments
    }

    fn console(&self) -> PathBuf {
        self.logs.join("console.log")
    }

    /// Where QEMU takes questions about its processors.
    fn monitor(&self) -> PathBuf {
        self.logs.join("monitor")
    }

    /// What they said when the machine stood still.
    fn registers(&self) -> PathBuf {
        self.logs.join("registers.txt")
    }

    fn messages(&self) -> PathBuf {
        self.logs.join("qemu.log")
    }

    /// The ends of both logs, for an error message. Writing to a string cannot fail.
    fn last_lines(&self) -> String {
        let mut text = String::new();
        for (title, path) in [
            ("kernel console", self.console()),
            ("QEMU", self.messages()),
            ("processors", self.registers()),
        ] {
            let Ok(bytes) = fs::read(&path) else { continue };
            let log = String::from_utf8_lossy(&bytes);
            // QEMU lists the features of the processor model that it cannot emulate; all are.
            let lines: Vec<&str> =
                log.lines().filter(|l| !l.contains("TCG doesn't support requested")).collect();
            let first = lines.len().saturating_sub(CONSOLE_LINES);
            if !lines.is_empty() {
                let _ = writeln!(text, "last lines of the {title} ({}):", path.display());
            }
            for line in &lines[first..] {
                let _ = writeln!(text, "  | {line}");
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// Why following the jobs stopped.
enum LostContact {
    Silent,
    Stuck(String),
    Unusable(String),
    Broken(io::Error),
}

/// Where a run is, as error messages say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Boot,
    Job(String),
    BetweenJobs,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot => f.write_str("while booting"),
            Self::Job(label) => write!(f, "while running {label}"),
            Self::BetweenJobs => f.write_str("between two jobs"),
        }
    }
}

/// How patient the host is with a machine that is up.
#[derive(Debug, Clone, Copy)]
struct Patience {
    deadline: Instant,
    silence: Duration,
}

/// Gives the machine one job after the other.
struct Assignments<'a> {
    queue: &'a Queue,
    /// The job that the machine has.
    running: &'a mut Option<usize>,
}

impl Assignments<'_> {
    fn give_next(&mut self, stream: &mut DeadlineStream) -> io::Result<()> {
        *self.running = self.queue.take();
        let order = match *self.running {
            Some(index) => Order::Run(u16::try_from(index).map_err(io::Error::other)?),
            None => Order::End,
        };
        // Where the machine is gone, the next read says more than a failed write.
        if let Some(stream) = &mut stream.stream {
            let _ = stream.write_all(&order.encode());
        }
        Ok(())
    }
}

/// Follows the report to its end. `up` holds once the machine is up.
fn follow(
    port: &mut BufReader<DeadlineStream>,
    up: Patience,
    assignments: &mut Assignments<'_>,
    observer: &mut dyn Observer,
    during: &mut Phase,
) -> Result<(), LostContact> {
    let mut current = 0;
    loop {
        match wire::receive(port).map_err(LostContact::Broken)?.ok_or(LostContact::Silent)? {
            Message::Output(stream, bytes) => observer.output(current, stream, &bytes),
            Message::Notice(Notice::Ready { kvm }) => {
                let stream = port.get_mut();
                (stream.deadline, stream.silence_limit) = (up.deadline, up.silence);
                *during = Phase::BetweenJobs;
                observer.ready(&kvm);
                assignments.give_next(port.get_mut()).map_err(LostContact::Broken)?;
            }
            Message::Notice(Notice::Unusable { why }) => return Err(LostContact::Unusable(why)),
            Message::Notice(Notice::Started { index }) => {
                current = index;
                let job = assignments.queue.jobs().get(index);
                let label = job.map_or("an unknown job", |job| job.label.as_str());
                *during = Phase::Job(label.to_owned());
                observer.started(index);
            }
            Message::Notice(Notice::Finished { index, finished }) => {
                *during = Phase::BetweenJobs;
                observer.finished(index, &finished);
                assignments.give_next(port.get_mut()).map_err(LostContact::Broken)?;
            }
            Message::Notice(Notice::Alive) => {}
            Message::Notice(Notice::Stuck { report, .. }) => {
                return Err(LostContact::Stuck(report));
            }
            Message::Notice(Notice::Done) => return Ok(()),
        }
    }
}

/// The running QEMU, ended at the latest when this goes.
struct RunningQemu {
    child: Child,
    port: Option<UnixStream>,
    _nudges: Nudges,
}

impl RunningQemu {
    fn end(&mut self) {
        // Fails only where it has ended already; then waiting is all there is to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn exit_status(&mut self) -> String {
        let deadline = Instant::now() + EXIT_LIMIT;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return describe(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(e) => return e.to_string(),
            }
        }
        "it closed its port but still ran".into()
    }
}

impl Drop for RunningQemu {
    fn drop(&mut self) {
        self.end();
    }
}

fn describe(status: ExitStatus) -> String {
    // setpriv's status where the program cannot be executed.
    if status.code() == Some(127) {
        return "the emulator is not installed; it is in package qemu-system-x86".into();
    }
    status.to_string()
}

/// Reads from the socket until a fixed moment, or until nothing has come for too long.
struct DeadlineStream {
    stream: Option<UnixStream>,
    deadline: Instant,
    silence_limit: Duration,
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        let left = self.deadline.saturating_duration_since(Instant::now()).min(self.silence_limit);
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        stream.read(buffer).or_else(|e| match e.kind() {
            io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            // The machine's end, with nudges that it had not read.
            io::ErrorKind::ConnectionReset => Ok(0),
            _ => Err(e),
        })
    }
}

/// QEMU separates options with commas; a doubled one stands for itself.
fn escape_commas(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests;
