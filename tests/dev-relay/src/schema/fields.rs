//! One JSON object, read field by field until nothing is left over.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Longest value that is quoted in a complaint.
const QUOTED: usize = 80;

/// An object whose every field must be asked for: what was not is one too many.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    asked: HashSet<&'static str>,
    problems: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Map<String, Value>) -> Self {
        Self { object, asked: HashSet::new(), problems: Vec::new() }
    }

    /// Whether the field is there and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(|value| !value.is_null())
    }

    /// The field is allowed and not looked at.
    pub(super) fn skip(&mut self, name: &'static str) {
        self.asked.insert(name);
    }

    pub(super) fn wrong(&mut self, name: &'static str, what: &str) {
        self.asked.insert(name);
        self.problems.push(format!("{name} {what}"));
    }

    fn value<T>(
        &mut self,
        name: &'static str,
        form: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        self.asked.insert(name);
        let Some(value) = self.object.get(name) else {
            self.problems.push(format!("{name} is missing"));
            return None;
        };
        let read = read(value);
        if read.is_none() {
            let quoted: String = value.to_string().chars().take(QUOTED).collect();
            self.problems.push(format!("{name} is not {form}: {quoted}"));
        }
        read
    }

    pub(super) fn text(
        &mut self,
        name: &'static str,
        allowed: impl FnOnce(&str) -> bool,
    ) -> Option<&'a str> {
        self.value(name, "as it should be", |value| value.as_str().filter(|text| allowed(text)))
    }

    pub(super) fn truth(&mut self, name: &'static str) -> Option<bool> {
        self.value(name, "true or false", Value::as_bool)
    }

    pub(super) fn whole(&mut self, name: &'static str, least: i64, most: i64) -> Option<i64> {
        self.value(name, "a whole number in range", |value| {
            value.as_i64().filter(|number| (least..=most).contains(number))
        })
    }

    pub(super) fn number(&mut self, name: &'static str, least: f64, most: f64) -> Option<f64> {
        self.value(name, "a number in range", |value| {
            value.as_f64().filter(|number| (least..=most).contains(number))
        })
    }

    /// An object to be read in turn and given back with [`take_problems`](Self::take_problems).
    pub(super) fn object(&mut self, name: &'static str) -> Option<Fields<'a>> {
        self.value(name, "an object", Value::as_object).map(Fields::new)
    }

    /// Takes over what was wrong with a field's own fields.
    pub(super) fn take_problems(&mut self, name: &str, inner: Fields<'_>) {
        self.problems.extend(inner.finish().iter().map(|problem| format!("{name}.{problem}")));
    }

    /// What was wrong, fields that no check asked for included.
    pub(super) fn finish(mut self) -> Vec<String> {
        for name in self.object.keys().filter(|name| !self.asked.contains(name.as_str())) {
            let name: String = name.chars().take(QUOTED).collect();
            self.problems.push(format!("{name} does not belong here"));
        }
        self.problems
    }
}
