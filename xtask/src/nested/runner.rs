//! Decides where programs that boot Linux guests run, and runs them there.

use std::time::Duration;

use anyhow::Result;

use super::NestedMachine;
use super::execute::execute;
use super::job::Observer;
use super::queue::Queue;

/// Emulated processors for tests. By its source, QEMU 10 does not note that VMRUN has delivered an
/// interrupt it was to inject. When another processor stops this one before the guest leaves by
/// itself, it delivers the interrupt a second time, into the first instruction of its handler, as a
/// log of it shows, and the guest triple-faults or is silent. That hits guests that run side by side,
/// one of a hundred or more. With one processor none of 640 was lost, and tests take no longer; the
/// machine itself stood still now and then, until it was given nudges.
pub const TEST_VCPUS: u32 = 1;
/// Emulated processors for what is to be measured, and for people who look into something.
pub const BENCH_VCPUS: u32 = 2;

/// Where to run Linux guests, for people who want to force it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum On {
    /// On this host's own KVM.
    Native,
    /// In the nested machine.
    Nested,
}

/// Where Linux guests run, and why there.
#[derive(Debug)]
pub struct Choice {
    pub on: On,
    pub reason: String,
}

/// What runs jobs: this host, or the nested machine.
#[derive(Debug)]
pub enum Runner {
    Native,
    Nested { machine: NestedMachine, limit: Duration },
}

impl Choice {
    /// Takes what was asked for, else asks KVM: by what it does, not by its name.
    pub fn make(asked: Option<On>) -> Self {
        match asked {
            Some(on) => Self { on, reason: "asked for".into() },
            None => from_probe(vmm::probe().map_err(|e| e.to_string())),
        }
    }

    /// Where tests that boot no Linux guest run: any KVM is good enough for those among them that
    /// need one.
    pub fn for_host_tests() -> Self {
        match vmm::probe() {
            Ok(_) => Self { on: On::Native, reason: "they boot no Linux guest".into() },
            Err(e) => without_kvm(&e.to_string()),
        }
    }
}

fn without_kvm(why: &str) -> Choice {
    Choice { on: On::Nested, reason: format!("this host has no usable KVM: {why}") }
}

fn from_probe(probe: Result<vmm::HostProbe, String>) -> Choice {
    match probe {
        Ok(probe) => match probe.kind {
            vmm::KvmKind::Hardware => {
                Choice { on: On::Native, reason: "this host's KVM runs Linux guests".into() }
            }
            vmm::KvmKind::Software => Choice {
                on: On::Nested,
                reason: "this host's KVM interprets guest kernels and cannot boot Linux".into(),
            },
        },
        Err(e) => without_kvm(&e),
    }
}

impl Runner {
    /// Makes the runner ready. `limit` bounds each run in the nested machine, which has
    /// `processors`.
    pub fn prepare(on: On, limit: Duration, processors: u32) -> Result<Self> {
        match on {
            On::Native => Ok(Self::Native),
            On::Nested => Ok(Self::Nested { machine: NestedMachine::prepare(processors)?, limit }),
        }
    }

    /// Where it runs jobs, in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native => "here",
            Self::Nested { .. } => "nested machine",
        }
    }

    /// Where it runs jobs, in a few words.
    pub fn describe(&self) -> String {
        match self {
            Self::Native => "here".into(),
            Self::Nested { machine, .. } => {
                format!("in the nested machine ({})", machine.kernel_version())
            }
        }
    }

    /// Runs jobs of the queue one after the other until none waits. Fails where not all that were
    /// taken came to an end.
    pub fn run(&self, queue: &Queue, observer: &mut dyn Observer) -> Result<()> {
        match self {
            Self::Native => {
                while let Some(index) = queue.take() {
                    let Some(job) = queue.jobs().get(index) else { break };
                    observer.started(index);
                    let finished =
                        execute(job, |stream, bytes| observer.output(index, stream, bytes));
                    observer.finished(index, &finished);
                }
                Ok(())
            }
            // Another machine may have taken the last job.
            Self::Nested { .. } if queue.is_empty() => Ok(()),
            Self::Nested { machine, limit } => machine.run(queue, *limit, observer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nested::job::{Ended, Finished, Job, Stream};

    fn probe(kind: vmm::KvmKind) -> vmm::HostProbe {
        vmm::HostProbe::new(kind, Vec::new())
    }

    #[test]
    fn behaviour_decides() {
        assert_eq!(from_probe(Ok(probe(vmm::KvmKind::Hardware))).on, On::Native);
        assert_eq!(from_probe(Ok(probe(vmm::KvmKind::Software))).on, On::Nested);
        let none = from_probe(Err("no such device".into()));
        assert_eq!(none.on, On::Nested);
        assert!(none.reason.contains("no such device"));
    }

    #[test]
    fn a_wish_overrides_behaviour() {
        assert_eq!(Choice::make(Some(On::Native)).on, On::Native);
        assert_eq!(Choice::make(Some(On::Nested)).on, On::Nested);
    }

    #[derive(Default)]
    struct Record(Vec<String>);

    impl Observer for Record {
        fn started(&mut self, index: usize) {
            self.0.push(format!("{index} starts"));
        }

        fn output(&mut self, index: usize, _: Stream, bytes: &[u8]) {
            self.0.push(format!("{index} prints {}", String::from_utf8_lossy(bytes)));
        }

        fn finished(&mut self, index: usize, finished: &Finished) {
            self.0.push(format!("{index} ends with {}", finished.ended));
        }
    }

    #[test]
    fn native_jobs_run_in_order_and_past_a_failure() {
        let job = |script: &str| Job {
            label: script.into(),
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            directory: "/".into(),
            environment: [].into(),
        };
        let mut record = Record::default();
        let queue = Queue::new(vec![job("printf one; exit 1"), job("printf two")]);
        Runner::Native.run(&queue, &mut record).unwrap();
        assert_eq!(
            record.0,
            [
                "0 starts",
                "0 prints one",
                "0 ends with exit status 1",
                "1 starts",
                "1 prints two",
                "1 ends with exit status 0",
            ]
        );
        assert!(Ended::Exited(0).is_success());
    }
}
