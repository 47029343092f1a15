//! Text to normal form, in one pass over `serde_json`'s parser.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::normal::{nfc, number, object};
use super::{CanonicalError, Json, MAX_BYTES, MAX_DEPTH};

/// Up to here every whole number is a double of its own.
const MAX_EXACT: u64 = 1 << 53;

/// `exact` refuses numbers beyond 2^53.
pub fn parse(text: &str, exact: bool) -> Result<Json, CanonicalError> {
    if text.len() > MAX_BYTES {
        return Err(CanonicalError::TooLarge(text.len()));
    }
    let refused = Cell::new(None);
    let mut parser = serde_json::Deserializer::from_str(text);
    Reader { depth: 0, exact, refused: &refused }
        .deserialize(&mut parser)
        .and_then(|json| parser.end().map(|()| json))
        .map_err(|error| {
            refused.take().unwrap_or_else(|| CanonicalError::Syntax(error.to_string()))
        })
}

/// Reads one value. What it refuses itself goes out by the side, because the parser's own error
/// type holds only text.
#[derive(Clone, Copy)]
struct Reader<'r> {
    depth: usize,
    exact: bool,
    refused: &'r Cell<Option<CanonicalError>>,
}

impl Reader<'_> {
    fn refuse<E: Error>(self, why: CanonicalError) -> E {
        let error = E::custom(&why);
        self.refused.set(Some(why));
        error
    }

    fn require_exact<E: Error>(self, is_exact: bool, value: &dyn fmt::Display) -> Result<(), E> {
        if self.exact && !is_exact {
            return Err(self.refuse(CanonicalError::Inexact(value.to_string())));
        }
        Ok(())
    }

    /// The reader of what is inside a container.
    fn inside<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(self.refuse(CanonicalError::TooDeep));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    // Numbers of the protocol are doubles: an integer beyond 2^53 is rounded, as its signer did.
    #[allow(clippy::cast_precision_loss)]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        self.require_exact(value <= MAX_EXACT, &value)?;
        Ok(number(value as f64))
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        self.require_exact(value.unsigned_abs() <= MAX_EXACT, &value)?;
        Ok(number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        if !value.is_finite() {
            return Err(E::custom("number out of range"));
        }
        // An integer of more than 64 bits comes here as well.
        #[allow(clippy::cast_precision_loss)]
        let is_exact = value.abs() <= MAX_EXACT as f64;
        self.require_exact(is_exact, &value)?;
        Ok(number(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(nfc(Cow::Borrowed(text))))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(nfc(Cow::Owned(text))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let inside = self.inside()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inside)? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let inside = self.inside()?;
        let mut list = Vec::new();
        while let Some(Key(key)) = entries.next_key_seed(Key(()))? {
            list.push((key, entries.next_value_seed(inside)?));
        }
        object(list).map_err(|why| self.refuse(why))
    }
}

/// Reads a key without a copy of text that is in normal form already.
struct Key<T>(T);

impl<'de> DeserializeSeed<'de> for Key<()> {
    type Value = Key<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key<String>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<()> {
    type Value = Key<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Key<String>, E> {
        Ok(Key(nfc(Cow::Borrowed(text))))
    }
}
