//! Parameters against the registry that is shipped, and registries.
//!
//! The input is JSON: `{"tool": ..., "params": {...}}`, or a list of tools.

use std::sync::OnceLock;

use guest::registry::{ArgvPart, CallError, Registry, ToolSpec};
use serde_json::{Map, Value};

const SHIPPED: &str = include_str!("../../../../guest/registry/tools.json");

pub fn run(input: &[u8]) {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    let shipped = REGISTRY.get_or_init(|| {
        let mut registry = Registry::parse(SHIPPED).unwrap();
        let names: Vec<_> = registry.tools().map(|tool| tool.name.clone()).collect();
        registry.enable(names.iter().map(String::as_str)).unwrap();
        registry
    });
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(other) = Registry::parse(text) {
        for tool in other.tools() {
            let _ = other.argv(&tool.name, &Map::new());
        }
    }
    let Ok(Value::Object(mut call)) = serde_json::from_str(text) else { return };
    let (Some(Value::String(tool)), Some(Value::Object(params))) =
        (call.remove("tool"), call.remove("params"))
    else {
        return;
    };
    match shipped.argv(&tool, &params) {
        Ok(argv) => taken(shipped, &tool, &params, &argv),
        Err(CallError::Unknown(_)) => assert!(shipped.tools().all(|known| known.name != tool)),
        Err(_) => {}
    }
}

/// What was let through is what the schema allows, and one argument for each part of the template.
fn taken(registry: &Registry, tool: &str, params: &Map<String, Value>, argv: &[String]) {
    let spec = registry.check(tool, params).unwrap();
    allowed(spec, params);
    let mut rest = argv.iter();
    for part in &spec.argv {
        match part {
            ArgvPart::Literal(literal) => assert_eq!(rest.next(), Some(literal)),
            ArgvPart::Param(part) => match params.get(&part.param) {
                None | Some(Value::Null) => {
                    if let Some(default) = &part.default {
                        assert_eq!(rest.next(), Some(default));
                    }
                }
                Some(Value::String(text)) => assert_eq!(rest.next(), Some(text)),
                Some(other) => assert_eq!(rest.next(), Some(&other.to_string())),
            },
        }
    }
    assert_eq!(rest.next(), None, "no argument comes from nowhere");
    assert!(argv.iter().all(|argument| !argument.contains('\0')));
    assert!(argv[0].starts_with('/'));
}

fn allowed(spec: &ToolSpec, params: &Map<String, Value>) {
    for name in spec.params["required"].as_array().into_iter().flatten() {
        assert!(params.contains_key(name.as_str().unwrap()), "{name} is missing");
    }
    for (name, value) in params {
        let schema = &spec.params["properties"][name];
        assert!(schema.is_object(), "{name} is not one of the tool's parameters");
        if let Some(choices) = schema["enum"].as_array() {
            assert!(choices.contains(value), "{name} is none of its choices");
        }
        let length = value.as_str().map(|text| text.chars().count() as u64);
        let (least, most) = (schema["minLength"].as_u64(), schema["maxLength"].as_u64());
        assert!(length >= length.and(least), "{name} is too short");
        assert!(most.is_none() || length <= most, "{name} is too long");
        let number = value.as_f64();
        assert!(number >= number.and(schema["minimum"].as_f64()), "{name} is too small");
        let most = schema["maximum"].as_f64();
        assert!(most.is_none() || number <= most, "{name} is too large");
        let is = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer" | "number") => value.is_number(),
            _ => true,
        };
        assert!(is, "{name} is of another type");
    }
}
