//! What was tried and what came of it, as one JSON object on standard output.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::system::Answer;

/// One thing that was tried.
#[derive(Debug, Serialize)]
pub struct Attempt {
    name: String,
    to: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
}

/// Everything one attack tried.
#[derive(Debug, Serialize)]
pub struct Log {
    attack: &'static str,
    /// What must succeed, or the attack proves nothing.
    controls: Vec<Attempt>,
    /// What must not succeed.
    attempts: Vec<Attempt>,
    /// Further observations, in words.
    facts: Map<String, Value>,
}

impl Log {
    /// Nothing tried yet.
    pub fn new(attack: &'static str) -> Self {
        Self { attack, controls: Vec::new(), attempts: Vec::new(), facts: Map::new() }
    }

    /// Notes something that must succeed.
    pub fn control(&mut self, name: &str, answer: Answer) {
        self.controls.push(attempt(name, "", answer));
    }

    /// Notes something that must fail.
    pub fn attempt(&mut self, name: &str, to: impl Into<String>, answer: Answer) {
        self.attempts.push(attempt(name, to, answer));
    }

    /// Notes a fact.
    pub fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Prints all of it. The exit code says that the attack ran, not how it went.
    pub fn print(&self) -> ExitCode {
        match serde_json::to_string(self) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(_) => ExitCode::FAILURE,
        }
    }
}

fn attempt(name: &str, to: impl Into<String>, answer: Answer) -> Attempt {
    let errno = answer.err().map(|errno| format!("{errno:?}"));
    Attempt { name: name.to_owned(), to: to.into(), ok: answer.is_ok(), errno }
}
