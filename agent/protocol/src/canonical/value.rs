//! Between the normal form and values of `serde_json`.

use std::borrow::Cow;

use serde_json::{Number, Value};

use super::normal::{nfc, number, object};
use super::{CanonicalError, Json, MAX_DEPTH};

/// Up to here every whole number is a double of its own: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

pub fn from_value(value: &Value) -> Result<Json, CanonicalError> {
    borrowed(value, 0)
}

pub fn from_owned(value: Value) -> Result<Json, CanonicalError> {
    owned(value, 0)
}

fn borrowed(value: &Value, depth: usize) -> Result<Json, CanonicalError> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(value) => double(value)?,
        Value::String(text) => Json::String(nfc(Cow::Borrowed(text))),
        Value::Array(items) => {
            let depth = deeper(depth)?;
            Json::Array(items.iter().map(|item| borrowed(item, depth)).collect::<Result<_, _>>()?)
        }
        Value::Object(entries) => {
            let depth = deeper(depth)?;
            let entry = |(key, value): (&String, &Value)| {
                Ok((nfc(Cow::Borrowed(key)), borrowed(value, depth)?))
            };
            object(entries.iter().map(entry).collect::<Result<_, CanonicalError>>()?)?
        }
    })
}

fn owned(value: Value, depth: usize) -> Result<Json, CanonicalError> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(value),
        Value::Number(value) => double(&value)?,
        Value::String(text) => Json::String(nfc(Cow::Owned(text))),
        Value::Array(items) => {
            let depth = deeper(depth)?;
            Json::Array(items.into_iter().map(|item| owned(item, depth)).collect::<Result<_, _>>()?)
        }
        Value::Object(entries) => {
            let depth = deeper(depth)?;
            let entry =
                |(key, value): (String, Value)| Ok((nfc(Cow::Owned(key)), owned(value, depth)?));
            object(entries.into_iter().map(entry).collect::<Result<_, CanonicalError>>()?)?
        }
    })
}

/// Keys of a map are unique already; only keys that NFC changes can collide with others.
pub fn check_keys(value: &Value) -> Result<(), CanonicalError> {
    keys(value, 0)
}

fn keys(value: &Value, depth: usize) -> Result<(), CanonicalError> {
    match value {
        Value::Array(items) => {
            let depth = deeper(depth)?;
            items.iter().try_for_each(|item| keys(item, depth))
        }
        Value::Object(entries) => {
            let depth = deeper(depth)?;
            if !entries.keys().all(|key| key.is_ascii()) {
                let names = entries.keys().map(|key| (nfc(Cow::Borrowed(key)), Json::Null));
                object(names.collect())?;
            }
            entries.values().try_for_each(|value| keys(value, depth))
        }
        _ => Ok(()),
    }
}

fn deeper(depth: usize) -> Result<usize, CanonicalError> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(CanonicalError::TooDeep) }
}

fn double(value: &Number) -> Result<Json, CanonicalError> {
    match value.as_f64() {
        Some(value) if value.is_finite() => Ok(number(value)),
        _ => Err(CanonicalError::NoJsonForm(format!("the number {value} is beyond a double"))),
    }
}

pub fn into_value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(value) => integer_or_double(value),
        Json::String(text) => Value::String(text),
        Json::Array(items) => Value::Array(items.into_iter().map(into_value).collect()),
        Json::Object(entries) => Value::Object(
            entries.into_iter().map(|(key, value)| (key, into_value(value))).collect(),
        ),
    }
}

fn integer_or_double(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() <= MAX_EXACT {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}
