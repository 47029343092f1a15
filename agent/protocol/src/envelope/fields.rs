//! Taking the fields of a closed object one by one.

use serde_json::{Map, Value};

use crate::canonical::Json;
use crate::shape::start_of;
use crate::timestamp::Timestamp;

/// How a frame breaks its schema, for a person.
#[derive(Debug)]
pub struct Problem(pub String);

impl Problem {
    pub fn not_an_object() -> Self {
        Self("the envelope must be a JSON object".into())
    }
}

/// What is left of an object. Every field is taken once; [`Self::end`] refuses the rest.
pub struct Fields {
    entries: Vec<(String, Json)>,
    /// In front of names in messages.
    path: &'static str,
}

impl Fields {
    pub fn new(entries: Vec<(String, Json)>, path: &'static str) -> Self {
        Self { entries, path }
    }

    /// A field that has the wrong form.
    pub fn wrong(&self, name: &str, form: &str) -> Problem {
        Problem(format!("field `{}{name}` of the envelope must be {form}", self.path))
    }

    fn take_if_there(&mut self, name: &str) -> Option<Json> {
        let at = self.entries.iter().position(|(key, _)| key == name)?;
        Some(self.entries.swap_remove(at).1)
    }

    fn take(&mut self, name: &str) -> Result<Json, Problem> {
        self.take_if_there(name).ok_or_else(|| {
            Problem(format!("field `{}{name}` of the envelope is missing", self.path))
        })
    }

    pub fn text(&mut self, name: &str) -> Result<String, Problem> {
        match self.take(name)? {
            Json::String(text) => Ok(text),
            _ => Err(self.wrong(name, "text")),
        }
    }

    pub fn text_that(
        &mut self,
        name: &str,
        form: &str,
        is: impl FnOnce(&str) -> bool,
    ) -> Result<String, Problem> {
        let text = self.text(name)?;
        if is(&text) { Ok(text) } else { Err(self.wrong(name, form)) }
    }

    pub fn some_text(&mut self, name: &str) -> Result<String, Problem> {
        self.text_that(name, "text that is not empty", |text| !text.is_empty())
    }

    pub fn optional_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.take_if_there(name) {
            None => Ok(None),
            Some(Json::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "text that is not empty, or absent")),
        }
    }

    pub fn literal(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        if self.text(name)? == value {
            Ok(())
        } else {
            Err(self.wrong(name, &format!("`{value}`")))
        }
    }

    pub fn time(&mut self, name: &str) -> Result<Timestamp, Problem> {
        let text = self.text(name)?;
        Timestamp::parse(&text).ok_or_else(|| self.wrong(name, "a time like 2026-01-02T03:04:05Z"))
    }

    fn entries_of(&mut self, name: &str) -> Result<Vec<(String, Json)>, Problem> {
        match self.take(name)? {
            Json::Object(entries) => Ok(entries),
            _ => Err(self.wrong(name, "a JSON object")),
        }
    }

    pub fn object(&mut self, name: &str) -> Result<Map<String, Value>, Problem> {
        let entries = self.entries_of(name)?;
        Ok(entries.into_iter().map(|(key, value)| (key, value.into_value())).collect())
    }

    /// The fields of the closed object `operator`.
    pub fn operator(&mut self) -> Result<Self, Problem> {
        Ok(Self::new(self.entries_of("operator")?, "operator."))
    }

    pub fn end(self) -> Result<(), Problem> {
        match self.entries.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem(format!(
                "the envelope has a field `{}{}` that the protocol does not know",
                self.path,
                start_of(name)
            ))),
        }
    }
}
