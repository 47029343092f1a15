//! Canonical JSON: RFC 8785 over a value whose strings and keys were brought to Unicode form NFC first.
//!
//! Every number is an IEEE double and prints as ECMAScript prints it (RFC 8785 3.2.2.3). Keys sort by
//! UTF-16 code units after NFC (3.2.3). Stricter than a lenient parser on purpose, because one text
//! must not have two readings: keys that occur twice, or are equal after NFC, lone surrogates and
//! numbers beyond a double are refused.

mod normal;
mod parse;
pub(super) mod signed;
mod value;
mod write;

use serde::Serialize;
use thiserror::Error;

/// Deepest nesting of arrays and objects. A value that is neither has depth 0.
pub const MAX_DEPTH: usize = 64;

/// Longest text that is parsed, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// A JSON value in normal form: strings and keys NFC, keys unique and sorted by UTF-16 code units,
/// numbers finite doubles. [`Json::parse`] and [`Json::from_value`] bring values into that form.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Any number, finite, never negative zero.
    Number(f64),
    /// Text in NFC.
    String(String),
    /// Values in their order.
    Array(Vec<Json>),
    /// Entries in the order of their keys.
    Object(Vec<(String, Json)>),
}

/// Why a text has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CanonicalError {
    /// Not JSON; also a lone surrogate, or a number that no double can hold.
    #[error("this is not valid JSON: {0}")]
    Syntax(String),
    /// Longer than [`MAX_BYTES`].
    #[error("the JSON text has {0} bytes; the limit is {MAX_BYTES}")]
    TooLarge(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("the JSON value is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Two keys of one object are the same, or become the same by NFC. Holds the start of the key.
    #[error("the key {0:?} occurs twice in one object (keys are compared after Unicode form NFC)")]
    DuplicateKey(String),
    /// A number beyond 2^53, where doubles leave integers out: what was meant may be another one.
    #[error("the number {0} is beyond 2^53, where numbers are not exact: send it as text")]
    Inexact(String),
    /// A value of this program that has no JSON form.
    #[error("the value has no JSON form: {0}")]
    NoJsonForm(String),
}

impl Json {
    /// Reads exactly one JSON value; whitespace may surround it.
    pub fn parse(text: &str) -> Result<Self, CanonicalError> {
        parse::parse(text, false)
    }

    /// [`Self::parse`] for what is acted upon: refuses numbers beyond ±2^53 as well.
    ///
    /// # Errors
    ///
    /// The text is not JSON in one reading, or has a number that a double does not hold exactly.
    pub fn parse_exact(text: &str) -> Result<Self, CanonicalError> {
        parse::parse(text, true)
    }

    /// Normalises a value. Its numbers become doubles.
    pub fn from_value(value: &serde_json::Value) -> Result<Self, CanonicalError> {
        value::from_value(value)
    }

    /// As a value of `serde_json`. Whole numbers within ±2^53 become integers.
    pub fn to_value(&self) -> serde_json::Value {
        value::into_value(self.clone())
    }

    /// [`Self::to_value`] without copying.
    pub fn into_value(self) -> serde_json::Value {
        value::into_value(self)
    }

    /// The entry of an object; `None` for other values too. `key` must be NFC to be found.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The canonical bytes.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        write::value(self, &mut out);
        out
    }
}

/// The canonical bytes of a value of this program. As everywhere in `serde_json`, a float that is
/// not finite counts as `null`, and integers beyond ±2^53 lose digits because numbers are doubles.
pub fn canonical_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    let value = serde_json::to_value(value)
        .map_err(|error| CanonicalError::NoJsonForm(error.to_string()))?;
    Ok(value::from_owned(value)?.canonical())
}

/// Whether a value has a canonical form: nesting and keys, the two things of a [`serde_json::Value`]
/// that can be wrong. Copies no text, so it is cheap for large values.
pub fn check_keys(value: &serde_json::Value) -> Result<(), CanonicalError> {
    value::check_keys(value)
}

#[cfg(test)]
mod tests;
