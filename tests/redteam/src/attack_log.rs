//! The log that an attack prints. The attack ran in a guest, so its log is read as carefully as any
//! other output. A success counts against the sandbox; a failure counts for it only with controls
//! that worked.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::verdict::ProbeError;
use sandbox::ToolOutcome;

/// The most attempts that a log may have.
const MAX_ATTEMPTS: usize = 4096;

/// One thing that the attack tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// What the attack tried.
    pub name: String,
    /// What the attack tried it on.
    pub to: String,
    /// Whether the attempt worked.
    pub ok: bool,
    /// Why it did not, as the kernel names the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
}

/// Everything one attack tried.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttackLog {
    /// Name of the attack.
    pub attack: String,
    /// What had to work, so that the attempts prove something.
    pub controls: Vec<Attempt>,
    /// What had to fail if the sandbox holds.
    pub attempts: Vec<Attempt>,
    /// Further observations of the attack, by name.
    pub facts: Map<String, Value>,
}

impl AttackLog {
    /// Reads the last line of an attack's output.
    ///
    /// # Errors
    ///
    /// [`ProbeError::Control`]: the attack did not run to its end, its log is malformed, or one of
    /// its controls failed. It proves nothing.
    pub fn read(outcome: &ToolOutcome) -> Result<Self, ProbeError> {
        let told = || String::from_utf8_lossy(outcome.stderr.get(..200).unwrap_or(&outcome.stderr));
        if outcome.exit_code != 0 {
            let why = outcome.message.clone().unwrap_or_else(|| told().into_owned());
            let code = outcome.exit_code;
            return Err(ProbeError::Control(format!("the attack ended with {code}: {why}")));
        }
        Self::of_text(&outcome.stdout)
    }

    /// Reads the last line of `stdout`, which an attack that exited with 0 has printed.
    ///
    /// # Errors
    ///
    /// [`ProbeError::Control`]: the log is malformed, or one of its controls failed.
    pub fn of_text(stdout: &[u8]) -> Result<Self, ProbeError> {
        let last = stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
        let log: Self = serde_json::from_slice(last.unwrap_or_default())
            .map_err(|e| ProbeError::Control(format!("the attack says nothing usable: {e}")))?;
        if log.attempts.len() > MAX_ATTEMPTS {
            return Err(ProbeError::Control("the attack says too much".into()));
        }
        match log.controls.iter().find(|control| !control.ok) {
            Some(control) => {
                let errno = control.errno.as_deref().unwrap_or("no reason given");
                Err(ProbeError::Control(format!("{}: {errno}", control.name)))
            }
            None => Ok(log),
        }
    }

    /// The attempts that worked and should not have, in words.
    pub fn breaches(&self) -> Vec<String> {
        let worked = self.attempts.iter().filter(|attempt| attempt.ok);
        worked.map(|a| format!("{} {} worked", a.name, a.to)).collect()
    }

    /// The number of attempts for each error that the kernel gave.
    pub fn answers(&self) -> Value {
        let mut counts = Map::new();
        for attempt in &self.attempts {
            let answer = attempt.errno.clone().unwrap_or_else(|| "worked".into());
            let count = counts.get(&answer).and_then(Value::as_u64).unwrap_or_default();
            counts.insert(answer, (count + 1).into());
        }
        counts.into()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Outcome of a tool that printed `stdout` and ended with `exit_code`.
    pub fn outcome(exit_code: i32, stdout: &str) -> ToolOutcome {
        ToolOutcome::of_stdout("c", exit_code, stdout)
    }

    const GOOD: &str = r#"before
{"attack":"x","controls":[{"name":"c","to":"","ok":true}],"attempts":[{"name":"a","to":"b","ok":false,"errno":"EPERM"}],"facts":{}}
"#;

    #[test]
    fn an_attack_that_ran_and_was_refused_is_no_breach() {
        let log = AttackLog::read(&outcome(0, GOOD)).unwrap();
        assert_eq!(log.breaches(), Vec::<String>::new());
        assert_eq!(log.answers()["EPERM"], 1);
    }

    #[test]
    fn what_worked_is_a_breach() {
        let text = GOOD.replace(r#""ok":false,"errno":"EPERM""#, r#""ok":true"#);
        assert_eq!(AttackLog::read(&outcome(0, &text)).unwrap().breaches(), ["a b worked"]);
    }

    #[test]
    fn an_attack_without_its_control_proves_nothing() {
        let failed = GOOD.replace(r#""ok":true"#, r#""ok":false"#);
        for broken in
            [outcome(127, GOOD), outcome(0, ""), outcome(0, "nothing"), outcome(0, &failed)]
        {
            assert!(matches!(AttackLog::read(&broken), Err(ProbeError::Control(_))));
        }
    }
}
