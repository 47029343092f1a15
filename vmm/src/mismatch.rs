//! What differs between a captured part of a machine's state and the same part now, in words.
//! Comparing costs a comparison of values; words are found for what differs only.

use std::fmt::{Debug, Write};

/// Most fields of one part that are named.
const MAX_FIELDS: usize = 4;

/// A part of a machine's state that is not as it was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch<P> {
    /// The part.
    pub part: P,
    /// What was captured.
    pub was: String,
    /// What was read.
    pub is: String,
    /// Why the difference is no tampering, where it is none.
    pub residue: Option<&'static str>,
}

impl<P> Mismatch<P> {
    /// A mismatch of `part`, with the words for both values.
    pub fn new(part: P, (was, is): (String, String)) -> Self {
        Self { part, was, is, residue: None }
    }

    /// This mismatch, which is no tampering where `residue` says why.
    #[must_use]
    pub fn or_residue(self, residue: Option<&'static str>) -> Self {
        Self { residue, ..self }
    }

    /// These words for the part that `name` makes of this one.
    pub fn map<Q>(self, name: impl FnOnce(P) -> Q) -> Mismatch<Q> {
        let Self { part, was, is, residue } = self;
        Mismatch { part: name(part), was, is, residue }
    }
}

/// Compares two values of `part`. `None` when they are equal.
pub fn of_values<P, T: PartialEq + Debug>(part: P, then: &T, now: &T) -> Option<Mismatch<P>> {
    (then != now).then(|| Mismatch::new(part, fields(then, now)))
}

/// The first fields that differ, as the `Debug` form of both values shows them.
pub fn fields(then: &dyn Debug, now: &dyn Debug) -> (String, String) {
    let (then, now) = (format!("{then:#x?}"), format!("{now:#x?}"));
    let (mut was, mut is) = (String::new(), String::new());
    let differing = then.lines().zip(now.lines()).filter(|(then, now)| then != now);
    for (then, now) in differing.take(MAX_FIELDS) {
        add_field(&mut was, then);
        add_field(&mut is, now);
    }
    if was.is_empty() && is.is_empty() {
        // One says more than the other.
        add_field(&mut was, &format!("{} values", then.lines().count()));
        add_field(&mut is, &format!("{} values", now.lines().count()));
    }
    (was, is)
}

/// The first bytes that differ.
pub fn bytes(then: &[u8], now: &[u8]) -> (String, String) {
    let differing = then.iter().zip(now).enumerate().filter(|(_, (then, now))| then != now);
    pairs(differing.map(|(at, (then, now))| {
        (format!("byte {at:#x}: {then:#04x}"), format!("byte {at:#x}: {now:#04x}"))
    }))
}

/// The first of `differing`, joined.
pub fn pairs(differing: impl Iterator<Item = (String, String)>) -> (String, String) {
    let (mut was, mut is) = (String::new(), String::new());
    for (then, now) in differing.take(MAX_FIELDS) {
        add_field(&mut was, &then);
        add_field(&mut is, &now);
    }
    (was, is)
}

fn add_field(text: &mut String, field: &str) {
    let comma = if text.is_empty() { "" } else { ", " };
    // Writing to a string does not fail.
    let _ = write!(text, "{comma}{}", field.trim().trim_end_matches(','));
}
