//! The part of JSON Schema (2020-12) that parameters of tools need.
//!
//! PID 1 of the guest checks parameters too, and its size is paid for in every image and every
//! machine's memory; a complete implementation of the standard is four times as large as all the
//! rest of it. A keyword this module does not know makes a schema invalid, so nothing a tool's
//! author writes is silently ignored.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Map, Value};

/// Keywords that say something to people and nothing to machines.
const ANNOTATIONS: [&str; 4] = ["title", "description", "default", "examples"];

/// Fails with what the second argument says, and where, unless the first holds.
type Require<'a> = dyn Fn(bool, &dyn Fn() -> String) -> Result<(), String> + 'a;

/// A compiled schema.
pub struct Schema {
    kind: Option<Kind>,
    choices: Option<Vec<Value>>,
    properties: BTreeMap<String, Schema>,
    required: Vec<String>,
    open: bool,
    items: Option<Box<Schema>>,
    max_items: Option<u64>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    pattern: Option<Regex>,
    minimum: Option<f64>,
    maximum: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Schema {
    /// Compiles a schema; the error names the keyword that is wrong or unknown.
    pub fn compile(schema: &Value) -> Result<Self, String> {
        let schema = schema.as_object().ok_or("a schema must be an object")?;
        let known = [
            "type",
            "enum",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "maxItems",
            "minLength",
            "maxLength",
            "pattern",
            "minimum",
            "maximum",
        ];
        for keyword in schema.keys() {
            if !known.contains(&keyword.as_str()) && !ANNOTATIONS.contains(&keyword.as_str()) {
                return Err(format!("unknown keyword {keyword:?}"));
            }
        }
        let properties = match schema.get("properties") {
            None => BTreeMap::new(),
            Some(value) => object(value, "properties")?
                .iter()
                .map(|(name, schema)| Ok((name.clone(), Self::compile(schema)?)))
                .collect::<Result<_, String>>()?,
        };
        Ok(Self {
            kind: schema.get("type").map(Kind::parse).transpose()?,
            choices: schema.get("enum").map(|value| array(value, "enum").cloned()).transpose()?,
            properties,
            required: strings(schema.get("required"), "required")?,
            open: optional(schema, "additionalProperties", Value::as_bool)?.unwrap_or(true),
            items: schema.get("items").map(Self::compile).transpose()?.map(Box::new),
            max_items: optional(schema, "maxItems", Value::as_u64)?,
            min_length: optional(schema, "minLength", Value::as_u64)?,
            max_length: optional(schema, "maxLength", Value::as_u64)?,
            pattern: optional(schema, "pattern", Value::as_str)?
                .map(|text| Regex::new(text).map_err(|e| format!("pattern: {e}")))
                .transpose()?,
            minimum: optional(schema, "minimum", Value::as_f64)?,
            maximum: optional(schema, "maximum", Value::as_f64)?,
        })
    }

    /// The first thing wrong with `value`, and where (a JSON Pointer).
    pub fn check(&self, value: &Value) -> Result<(), String> {
        self.check_at(value, "")
    }

    fn check_at(&self, value: &Value, at: &str) -> Result<(), String> {
        let require = |holds: bool, what: &dyn Fn() -> String| {
            let place = if at.is_empty() { "/" } else { at };
            if holds { Ok(()) } else { Err(format!("at {place}: {}", what())) }
        };
        if let Some(kind) = self.kind {
            require(kind.fits(value), &|| format!("must be of type {}", kind.name()))?;
        }
        if let Some(choices) = &self.choices {
            let list = || Value::Array(choices.clone()).to_string();
            require(choices.contains(value), &|| format!("must be one of {}", list()))?;
        }
        match value {
            Value::Object(members) => self.check_members(members, at, &require),
            Value::Array(items) => {
                let most = self.max_items.unwrap_or(u64::MAX);
                require(items.len() as u64 <= most, &|| format!("must have at most {most} items"))?;
                for (index, item) in items.iter().enumerate() {
                    if let Some(schema) = &self.items {
                        schema.check_at(item, &format!("{at}/{index}"))?;
                    }
                }
                Ok(())
            }
            Value::String(text) => self.check_text(text, &require),
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                let (least, most) = (self.minimum, self.maximum);
                require(least.is_none_or(|least| number >= least), &|| {
                    format!("must be at least {}", least.unwrap_or_default())
                })?;
                require(most.is_none_or(|most| number <= most), &|| {
                    format!("must be at most {}", most.unwrap_or_default())
                })
            }
            Value::Null | Value::Bool(_) => Ok(()),
        }
    }

    fn check_members(
        &self,
        members: &Map<String, Value>,
        at: &str,
        require: &Require<'_>,
    ) -> Result<(), String> {
        for name in &self.required {
            require(members.contains_key(name), &|| format!("{name:?} is missing"))?;
        }
        for (name, value) in members {
            match self.properties.get(name) {
                Some(schema) => schema.check_at(value, &format!("{at}/{name}"))?,
                None => require(self.open, &|| format!("there is no {name:?}"))?,
            }
        }
        Ok(())
    }

    fn check_text(&self, text: &str, require: &Require<'_>) -> Result<(), String> {
        let length = text.chars().count() as u64;
        let (least, most) = (self.min_length.unwrap_or(0), self.max_length.unwrap_or(u64::MAX));
        require(length >= least, &|| format!("must have at least {least} characters"))?;
        require(length <= most, &|| format!("must have at most {most} characters"))?;
        match &self.pattern {
            Some(pattern) => {
                require(pattern.is_match(text), &|| format!("must match {}", pattern.as_str()))
            }
            None => Ok(()),
        }
    }
}

impl Kind {
    fn parse(value: &Value) -> Result<Self, String> {
        Ok(match value.as_str() {
            Some("object") => Self::Object,
            Some("array") => Self::Array,
            Some("string") => Self::String,
            Some("integer") => Self::Integer,
            Some("number") => Self::Number,
            Some("boolean") => Self::Boolean,
            _ => return Err(format!("unknown type {value}")),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            // 1.0 is an integer in JSON Schema, but no program's argument: be strict.
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

fn optional<'v, T>(
    schema: &'v Map<String, Value>,
    keyword: &str,
    read: impl Fn(&'v Value) -> Option<T>,
) -> Result<Option<T>, String> {
    let wrong = || format!("{keyword} has a value of the wrong type");
    schema.get(keyword).map(|value| read(value).ok_or_else(wrong)).transpose()
}

fn object<'v>(value: &'v Value, keyword: &str) -> Result<&'v Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{keyword} must be an object"))
}

fn array<'v>(value: &'v Value, keyword: &str) -> Result<&'v Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{keyword} must be an array"))
}

fn strings(value: Option<&Value>, keyword: &str) -> Result<Vec<String>, String> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let texts = array(value, keyword)?.iter().map(|item| item.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or_else(|| format!("{keyword} must hold strings"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_keyword_refuses_what_it_should_and_says_where() {
        for (schema, good, bad, says) in [
            (json!({"type": "integer"}), json!(1), json!(1.5), "at /: must be of type integer"),
            (json!({"type": "string"}), json!("x"), json!(null), "type string"),
            (json!({"type": "boolean"}), json!(true), json!(0), "type boolean"),
            (json!({"type": "number"}), json!(0.5), json!("0.5"), "type number"),
            (json!({"enum": ["-a", "-s"]}), json!("-s"), json!("--help"), "one of"),
            (json!({"minLength": 2}), json!("éé"), json!("é"), "at least 2"),
            (json!({"maxLength": 1}), json!("é"), json!("éé"), "at most 1"),
            (json!({"pattern": "^/work/[a-z]+$"}), json!("/work/a"), json!("/work/../x"), "match"),
            (json!({"minimum": 1}), json!(1), json!(0), "at least 1"),
            (json!({"maximum": 9}), json!(9), json!(10), "at most 9"),
            (json!({"maxItems": 1}), json!([1]), json!([1, 2]), "at most 1 items"),
            (json!({"items": {"type": "string"}}), json!(["a"]), json!(["a", 1]), "at /1"),
            (json!({"required": ["a"]}), json!({"a": 1}), json!({}), "\"a\" is missing"),
            (
                json!({"properties": {"a": {"properties": {"b": {"type": "string"}}}}}),
                json!({"a": {"b": "x"}}),
                json!({"a": {"b": 1}}),
                "at /a/b",
            ),
            (json!({"additionalProperties": false}), json!({}), json!({"x": 1}), "no \"x\""),
        ] {
            let compiled = Schema::compile(&schema).unwrap();
            assert_eq!(compiled.check(&good), Ok(()), "{schema} {good}");
            let error = compiled.check(&bad).unwrap_err();
            assert!(error.contains(says), "{schema} {bad}: {error}");
        }
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for schema in [
            json!(true),
            json!({"oneOf": []}),
            json!({"exclusiveMinimum": 1}),
            json!({"$ref": "#/x"}),
            json!({"type": ["string", "null"]}),
            json!({"type": "nonsense"}),
            json!({"minLength": "1"}),
            json!({"required": [1]}),
            json!({"pattern": "("}),
            json!({"properties": {"a": {"oops": 1}}}),
        ] {
            assert!(Schema::compile(&schema).is_err(), "{schema}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(text in ".*", number in any::<f64>()) {
            let schema = Schema::compile(&json!({
                "type": "object",
                "properties": {"t": {"pattern": "^a+b?$", "maxLength": 3}, "n": {"minimum": 0}},
            })).unwrap();
            let _ = schema.check(&json!({"t": text, "n": number, "other": [text]}));
        }
    }
}
