//! Degraded mode in words, for a person who was woken up by it.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::record::IncidentRecord;
use crate::reset_report::is_of_a_held_machine;
use protocol::code::ErrorCode;
use sandbox::verify::{Finding, Source};

/// What is known, and what to do.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Whether commands are refused.
    pub degraded: bool,
    /// What happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<IncidentRecord>,
    /// Every source, and what it has to say.
    pub sources: Vec<OfSource>,
    /// What it means.
    pub meaning: Vec<String>,
    /// What to do next, in this order.
    pub next: Vec<String>,
    /// Files that were saved of the machine, from the state directory.
    pub files: Vec<String>,
}

/// One source.
#[derive(Debug, Serialize)]
pub struct OfSource {
    /// Which one.
    pub source: Source,
    /// `agreed`, `disagreed` or `silent`; `not asked` when there was nothing to ask.
    pub verdict: &'static str,
    /// How many findings are its own.
    pub findings: usize,
}

/// Most files that are listed.
const MAX_FILES: usize = 1100;

/// Reads the latch of a state directory and what was saved, without an agent.
pub fn explain(state_dir: &Path) -> Explanation {
    let Some(record) = IncidentRecord::load(state_dir) else {
        return Explanation {
            degraded: false,
            record: None,
            sources: Vec::new(),
            meaning: Vec::new(),
            next: Vec::new(),
            files: Vec::new(),
        };
    };
    let files = record.bundle.as_deref().map(|bundle| list(state_dir, bundle)).unwrap_or_default();
    Explanation {
        degraded: true,
        sources: sources(&record),
        meaning: meaning(&record),
        next: next(&record, state_dir),
        files,
        record: Some(record),
    }
}

impl Explanation {
    /// As text for a terminal, without colours.
    pub fn in_words(&self) -> String {
        let Some(record) = &self.record else {
            return "not degraded: commands are served\n".to_owned();
        };
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(text, "DEGRADED since {}: no command runs.\n", record.since);
        let _ = writeln!(text, "code      {}", record.code);
        let _ = writeln!(text, "command   {}", record.command_id.as_deref().unwrap_or("none"));
        let _ = writeln!(text, "bundle    {}", record.bundle.as_deref().unwrap_or("none saved"));
        if record.further_incidents > 0 {
            let _ = writeln!(text, "since     {} more incidents", record.further_incidents);
        }
        let _ = writeln!(text, "why       {}", record.reason);
        if !self.sources.is_empty() {
            text.push_str("\nSources\n");
        }
        for of in &self.sources {
            let _ = writeln!(text, "  {:<8} {}", of.source.name(), of.verdict);
            for finding in record.findings.iter().filter(|finding| finding.source == of.source) {
                push_finding(&mut text, finding);
            }
        }
        if record.more_findings > 0 {
            let _ = writeln!(text, "  and {} more findings", record.more_findings);
        }
        if !record.suspicions.is_empty() {
            text.push_str("\nOdd, and no divergence by itself\n");
            for finding in &record.suspicions {
                push_finding(&mut text, finding);
            }
        }
        push_list(&mut text, "What it means", "  ", &self.meaning);
        text.push_str("\nWhat to do next\n");
        for (n, step) in self.next.iter().enumerate() {
            let _ = writeln!(text, "  {}. {step}", n + 1);
        }
        push_list(&mut text, "Saved of the machine", "  ", &self.files);
        text
    }
}

fn push_finding(text: &mut String, finding: &Finding) {
    let Finding { location, was, is, .. } = finding;
    let _ = writeln!(text, "    {location}\n      before  {was}\n      after   {is}");
}

fn push_list(text: &mut String, title: &str, indent: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}");
    for line in lines {
        let _ = writeln!(text, "{indent}{line}");
    }
}

fn sources(record: &IncidentRecord) -> Vec<OfSource> {
    let Some(reset_state) = &record.reset_state else { return Vec::new() };
    let details = &reset_state.verification_details;
    let as_found = as_found(record);
    let of = |source| {
        let findings = record.findings.iter().filter(|finding| finding.source == source).count();
        let verdict = match source {
            _ if findings > 0 => "disagreed",
            Source::Guest if record.silent => "silent",
            Source::Guest if details.open_fd_count < 0 => "not asked",
            Source::Monitor | Source::Memory if as_found => "not asked",
            _ => "agreed",
        };
        OfSource { source, verdict, findings }
    };
    Source::ALL.into_iter().map(of).collect()
}

/// A machine that was halted as it was found has had only its disk looked at.
fn as_found(record: &IncidentRecord) -> bool {
    record
        .reset_state
        .as_ref()
        .is_some_and(|state| is_of_a_held_machine(&state.verification_details))
}

fn meaning(record: &IncidentRecord) -> Vec<String> {
    let mut meaning = Vec::new();
    let has = |source| record.findings.iter().any(|finding| finding.source == source);
    let mut say = |text: &str| meaning.push(text.to_owned());
    if record.code == ErrorCode::ResetFailed.as_str() {
        say("A machine could not be reset to its golden state after a command. Nothing was \
             handed out: the machine is gone. A full disk, a lack of memory or a fault of this \
             host's KVM does that, and so does a guest that broke its machine.");
    }
    if record.silent {
        say("The guest did not say what it has open, nor when it was asked again, within 5 s of \
             its reset. An overloaded or suspended host does that, and so does a guest program \
             that was stopped or replaced.");
    }
    if as_found(record) {
        say("It was seen before the reset: the machine was not reset, and what was found is \
             saved as it was.");
    }
    if has(Source::Disk) {
        say("The disk holds what its guest did not write. Either a process of this host changed \
             the memory of this process or the image, or this host's RAM or disk is failing.");
    }
    if has(Source::Memory) {
        say("RAM of the machine is not as captured after its reset: a page was changed from \
             outside the guest, or a change was hidden from the reset, or this host's RAM is \
             failing. What the command left may have reached the next one; it did not: no other \
             command has run on this machine.");
    }
    if has(Source::Monitor) {
        say("Processors, devices or the run state of the machine are not as captured: a process \
             of this host holds or changes machines of this process, or KVM did not restore what \
             it was told to.");
    }
    if has(Source::Guest) {
        say("The guest runs or holds open what it did not when it was captured. It was reset, so \
             either the reset was incomplete, or something was started in it from outside.");
    }
    if record.findings.is_empty() && !record.silent && record.reset_state.is_none() {
        say("Nothing more is known than the line above. Whatever it was, no command runs until \
             an operator has looked.");
    }
    meaning
}

fn next(record: &IncidentRecord, state_dir: &Path) -> Vec<String> {
    let directory = state_dir.display();
    let mut next = Vec::new();
    if let Some(bundle) = &record.bundle {
        next.push(format!(
            "Copy {directory}/{bundle} to a safe place: it shows what was found beside what was \
             there before."
        ));
    }
    next.push(
        "Look at who was on this host at the time: logins, debuggers, the kernel's log (`dmesg`: \
         memory errors, KVM)."
            .to_owned(),
    );
    next.push(format!(
        "See that the log of this agent is whole: brainstorm-agent --state-dir {directory} audit \
         verify --head HASH, with the last hash the relay has."
    ));
    next.push(
        "If this host cannot be explained, take it out of service: stop the agent, keep the disk, \
         enroll another host."
            .to_owned(),
    );
    next.push(format!(
        "When you know what it was: brainstorm-agent --state-dir {directory} clear --reason \
         \"...\". The reason goes into the audit log; commands are served again by new machines."
    ));
    next
}

/// Files of a bundle. Its path is of the agent's own making, but the latch may not be.
fn list(state_dir: &Path, bundle: &str) -> Vec<String> {
    let mut parts = bundle.split('/');
    let safe = parts.next() == Some("forensics")
        && parts.next().is_some_and(|name| !name.is_empty() && !name.starts_with('.'))
        && parts.next().is_none();
    if !safe {
        return Vec::new();
    }
    let mut files = Vec::new();
    let mut directories = vec![bundle.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(state_dir.join(&directory)) else { continue };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{directory}/{name}");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(path),
                Ok(kind) if kind.is_file() && files.len() < MAX_FILES => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files
}
