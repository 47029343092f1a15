//! Starts QEMU for one run, listens to the program inside, and sees to QEMU's end.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use super::job::{Job, Observer};
use super::runner::PORT_NAME;
use super::wire::{self, Message, Notice};

/// Lines of the kernel console shown with a failure.
const CONSOLE_LINES: usize = 60;
/// An exiting QEMU closes its end of the port a moment before it can be waited for.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// Booting takes a few seconds, and half a minute on a host that is busy with other things.
pub const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// Why a run in the nested machine gave no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum NestedError {
    #[error("cannot start the emulator {program}: {source}; it is in package qemu-system-x86")]
    Start { program: String, source: io::Error },
    #[error("the nested machine did not boot within {limit:?} and was ended\n{logs}")]
    NotBooted { limit: Duration, logs: String },
    #[error("the nested machine passed its limit of {limit:?} {during} and was ended\n{logs}")]
    TimedOut { limit: Duration, during: Phase, logs: String },
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
    /// Uncompressed kernel.
    pub kernel: PathBuf,
    /// Initramfs, with this run's jobs in it.
    pub initrd: PathBuf,
    /// Directory for this run's logs.
    pub logs: PathBuf,
    /// How long the machine may take to come up.
    pub boot_limit: Duration,
}

impl Emulator {
    /// Boots the machine, follows `jobs` to the last one's end and ends the machine.
    pub fn run(
        &self,
        jobs: &[Job],
        limit: Duration,
        observer: &mut dyn Observer,
    ) -> Result<(), NestedError> {
        let boot_limit = limit.min(self.boot_limit);
        let start = Instant::now();
        let mut qemu = self.start()?;
        let mut port = BufReader::new(DeadlineStream {
            stream: qemu.port.take(),
            deadline: start + boot_limit,
        });
        let mut during = Phase::Boot;
        let outcome = follow(&mut port, start + limit, jobs, observer, &mut during);
        let logs = || self.last_lines();
        match (outcome, during) {
            (Ok(()), _) => Ok(()),
            (Err(Lost::Unusable(why)), _) => Err(NestedError::Unusable { why, logs: logs() }),
            (Err(Lost::Silent), during) => {
                let status = qemu.exit_status();
                Err(NestedError::EndedEarly { status, during, logs: logs() })
            }
            (Err(Lost::Broken(e)), during) if e.kind() == io::ErrorKind::TimedOut => {
                qemu.end();
                Err(match during {
                    Phase::Boot => NestedError::NotBooted { limit: boot_limit, logs: logs() },
                    _ => NestedError::TimedOut { limit, during, logs: logs() },
                })
            }
            (Err(Lost::Broken(source)), during) => {
                Err(NestedError::Damaged { during, source, logs: logs() })
            }
        }
    }

    fn start(&self) -> Result<Qemu, NestedError> {
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
        Ok(Qemu { child, port: Some(port) })
    }

    /// QEMU's arguments: an emulated AMD processor whose SVM the guest's KVM makes use of.
    fn arguments(&self) -> Vec<String> {
        let fixed = "-M q35 -accel tcg,thread=multi -cpu EPYC,+svm,+npt -smp 2 -m 4096 \
             -nodefaults -display none -no-reboot -device virtio-serial-pci \
             -virtfs local,path=/,mount_tag=host0,security_model=none,multidevs=remap";
        let mut arguments: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
        let console = escape_commas(&self.console());
        for argument in [
            "-kernel",
            &self.kernel.display().to_string(),
            "-initrd",
            &self.initrd.display().to_string(),
            "-append",
            "console=ttyS0 panic=-1 quiet mitigations=off",
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
        arguments
    }

    fn console(&self) -> PathBuf {
        self.logs.join("console.log")
    }

    fn messages(&self) -> PathBuf {
        self.logs.join("qemu.log")
    }

    /// The ends of both logs, for an error message. Writing to a string cannot fail.
    fn last_lines(&self) -> String {
        let mut text = String::new();
        for (title, path) in [("kernel console", self.console()), ("QEMU", self.messages())] {
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
enum Lost {
    Silent,
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

/// Follows the report to its end. Once the machine is up, it has until `deadline`.
fn follow(
    port: &mut BufReader<DeadlineStream>,
    deadline: Instant,
    jobs: &[Job],
    observer: &mut dyn Observer,
    during: &mut Phase,
) -> Result<(), Lost> {
    let mut current = 0;
    loop {
        match wire::receive(port).map_err(Lost::Broken)?.ok_or(Lost::Silent)? {
            Message::Output(stream, bytes) => observer.output(current, stream, &bytes),
            Message::Notice(Notice::Ready { kvm }) => {
                port.get_mut().deadline = deadline;
                *during = Phase::BetweenJobs;
                observer.ready(&kvm);
            }
            Message::Notice(Notice::Unusable { why }) => return Err(Lost::Unusable(why)),
            Message::Notice(Notice::Started { index }) => {
                current = index;
                let label = jobs.get(index).map_or("an unknown job", |job| job.label.as_str());
                *during = Phase::Job(label.to_owned());
                observer.started(index);
            }
            Message::Notice(Notice::Finished { index, finished }) => {
                *during = Phase::BetweenJobs;
                observer.finished(index, &finished);
            }
            Message::Notice(Notice::Done) => return Ok(()),
        }
    }
}

/// The running QEMU, ended at the latest when this goes.
struct Qemu {
    child: Child,
    port: Option<UnixStream>,
}

impl Qemu {
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

impl Drop for Qemu {
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

/// Reads from the socket until a fixed moment.
struct DeadlineStream {
    stream: Option<UnixStream>,
    deadline: Instant,
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        stream.read(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => e,
        })
    }
}

/// QEMU separates options with commas; a doubled one stands for itself.
fn escape_commas(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests;
