//! What the owner of this machine allows, whatever the relay has signed.
//!
//! A TOML file. Rules are read from the top; the first that fits decides, and `default` when none
//! does:
//!
//! ```toml
//! default = "allow"                # or "deny"
//! timezone = "Europe/Berlin"       # of `during`; the host's own when absent
//!
//! [[rule]]
//! effect = "deny"
//! tools = ["sh", "file_*"]         # `*` and `?` stand for any characters and one
//! reason = "no shells here"
//!
//! [[rule]]
//! effect = "allow"
//! tracks = ["mutator"]             # data_provider, mutator
//! operators = ["alice@*"]          # id of the operator, or of the human behind an agent
//! during = ["Mon-Fri 08:00-18:00"]
//!
//! [[rule]]
//! effect = "deny"
//! tracks = ["mutator"]
//! reason = "changes only in working hours, by alice"
//! ```
//!
//! A rule fits when each condition it has fits. A file that cannot be understood denies everything.

mod window;

use guest::registry::Track;
use jiff::tz::TimeZone;
use serde::Deserialize;
use thiserror::Error;
use wildmatch::WildMatch;

use protocol::envelope::Operator;
use protocol::timestamp::Timestamp;
use window::Window;

pub use window::WindowError;

/// Rules, and what happens when none fits.
#[derive(Debug, Clone)]
pub struct Policy {
    default: Effect,
    zone: TimeZone,
    rules: Vec<Rule>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone)]
struct Rule {
    effect: Effect,
    tools: Option<Vec<WildMatch>>,
    tracks: Option<Vec<Track>>,
    operators: Option<Vec<WildMatch>>,
    during: Option<Vec<Window>>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    default: Effect,
    timezone: Option<String>,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleForm {
    effect: Effect,
    tools: Option<Vec<String>>,
    tracks: Option<Vec<Track>>,
    operators: Option<Vec<String>>,
    during: Option<Vec<String>>,
    reason: Option<String>,
}

/// Why a policy cannot be used.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// Not the form above.
    #[error("not a policy: {0}")]
    Form(#[from] toml::de::Error),
    /// The host does not know the zone.
    #[error("time zone {name:?} is not known here: {reason}")]
    Zone {
        /// As written.
        name: String,
        /// What the time zone database says.
        reason: String,
    },
    /// Hours that are none.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// A condition without values would never fit.
    #[error("rule {rule}: {what} is an empty list: remove it, or say what it may be")]
    Empty {
        /// Which rule, from 1.
        rule: usize,
        /// Which condition.
        what: &'static str,
    },
}

/// What a command wants.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The tool that the command names.
    pub tool: &'a str,
    /// Whether that changes anything.
    pub track: Track,
    /// Who wants it.
    pub operator: &'a Operator,
    /// When.
    pub now: Timestamp,
}

impl Policy {
    /// Allows everything.
    pub fn allow_all() -> Self {
        Self { default: Effect::Allow, zone: TimeZone::UTC, rules: Vec::new() }
    }

    /// Reads the form above.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let form: Form = toml::from_str(text)?;
        let zone = match form.timezone {
            None => TimeZone::system(),
            Some(name) => TimeZone::get(&name)
                .map_err(|e| PolicyError::Zone { name, reason: e.to_string() })?,
        };
        let rules = form.rules.into_iter().zip(1..).map(|(rule, number)| rule.check(number));
        Ok(Self { default: form.default, zone, rules: rules.collect::<Result<_, _>>()? })
    }

    /// `Err` says in words what denies the request.
    pub fn decide(&self, request: &Request<'_>) -> Result<(), String> {
        let fitting = self.rules.iter().zip(1..).find(|(rule, _)| rule.fits(request, &self.zone));
        let (effect, place, reason) = match fitting {
            Some((rule, number)) => (rule.effect, format!("rule {number}"), rule.reason.as_deref()),
            None => (self.default, "its default".to_owned(), None),
        };
        match (effect, reason) {
            (Effect::Allow, _) => Ok(()),
            (Effect::Deny, None) => Err(format!("the local policy denies it ({place})")),
            (Effect::Deny, Some(reason)) => {
                Err(format!("the local policy denies it ({place}: {reason})"))
            }
        }
    }
}

impl RuleForm {
    fn check(self, rule: usize) -> Result<Rule, PolicyError> {
        let lengths = [
            ("tools", self.tools.as_ref().map(Vec::len)),
            ("tracks", self.tracks.as_ref().map(Vec::len)),
            ("operators", self.operators.as_ref().map(Vec::len)),
            ("during", self.during.as_ref().map(Vec::len)),
        ];
        if let Some((what, _)) = lengths.into_iter().find(|(_, length)| *length == Some(0)) {
            return Err(PolicyError::Empty { rule, what });
        }
        let globs = |patterns: Vec<String>| patterns.iter().map(|p| WildMatch::new(p)).collect();
        let windows = |texts: Vec<String>| texts.iter().map(|text| text.parse()).collect();
        Ok(Rule {
            effect: self.effect,
            tools: self.tools.map(globs),
            tracks: self.tracks,
            operators: self.operators.map(globs),
            during: self.during.map(windows).transpose()?,
            reason: self.reason,
        })
    }
}

impl Rule {
    fn fits(&self, request: &Request<'_>, zone: &TimeZone) -> bool {
        let operator = request.operator;
        let any = |patterns: &[WildMatch], text: &str| patterns.iter().any(|p| p.matches(text));
        self.tools.as_ref().is_none_or(|tools| any(tools, request.tool))
            && self.tracks.as_ref().is_none_or(|tracks| tracks.contains(&request.track))
            && self.operators.as_ref().is_none_or(|operators| {
                let human = operator.originating_human_id.as_deref();
                any(operators, &operator.id) || human.is_some_and(|id| any(operators, id))
            })
            && self.during.as_ref().is_none_or(|windows| {
                windows.iter().any(|window| window.contains(request.now, zone))
            })
    }
}

#[cfg(test)]
mod tests;
