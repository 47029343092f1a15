//! Programs to run, here or in the nested machine, and what became of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One program to run to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Name in messages for people.
    pub label: String,
    /// Program (an absolute path) and its arguments.
    pub argv: Vec<String>,
    /// Directory to run in.
    pub directory: PathBuf,
    /// Variables added to the environment.
    pub environment: BTreeMap<String, String>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It never ran; the text says why.
    NotStarted(String),
}

impl Ended {
    /// Whether it exited with status 0.
    pub fn is_success(&self) -> bool {
        *self == Self::Exited(0)
    }

    /// The status a shell would report.
    pub fn shell_status(&self) -> u8 {
        match self {
            Self::Exited(status) => u8::try_from(*status).unwrap_or(u8::MAX),
            Self::Signalled(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::NotStarted(_) => 127,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Signalled(signal) => write!(f, "ended by signal {signal}"),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
        }
    }
}

/// A finished program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    pub ended: Ended,
    /// From just before the start to the end of its output.
    pub took: Duration,
}

/// One of a program's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Is told what happens while jobs run one after the other; `index` is the job's place in the list.
pub trait Observer {
    /// The nested machine is up; the text says what its KVM is like.
    fn ready(&mut self, _kvm: &str) {}
    /// The job starts.
    fn started(&mut self, _index: usize) {}
    /// The job printed this just now.
    fn output(&mut self, index: usize, stream: Stream, bytes: &[u8]);
    /// The job is over and all its output was passed on.
    fn finished(&mut self, _index: usize, _finished: &Finished) {}
    /// The machine was lost, for the reason given, while the job ran, which comes once more.
    fn repeats(&mut self, _index: usize, _why: &str) {}
    /// The job lost its machine for the second time and does not come again.
    fn lost(&mut self, _index: usize, _why: &str) {}
}
