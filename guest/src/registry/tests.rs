use serde_json::json;

use super::*;

const SHIPPED: &str = include_str!("../../registry/tools.json");

fn params(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn spec() -> Value {
    json!({
        "name": "t", "description": "d", "track": "data_provider", "enabled": true,
        "argv": ["/bin/t", "--", {"param": "path"}, {"param": "n", "default": "5"}],
        "params": {
            "type": "object", "additionalProperties": false, "required": ["path"],
            "properties": {"path": {"type": "string", "minLength": 1}, "n": {"type": "integer"}},
        },
        "limits": {
            "deadline_ms": 1000, "memory_mib": 8, "pids": 4, "output_bytes": 1024, "scratch_mib": 1
        },
        "estimated_duration_ms": 10,
    })
}

fn registry(spec: &Value) -> Result<Registry, RegistryError> {
    Registry::parse(&json!([spec]).to_string())
}

#[test]
fn the_shipped_registry_is_sound() {
    let registry = Registry::parse(SHIPPED).unwrap();
    let enabled: Vec<_> = registry.tools().filter(|t| t.enabled).map(|t| t.name.as_str()).collect();
    for name in [
        "echo",
        "whoami",
        "uname",
        "cat",
        "ls",
        "env",
        "disk_usage",
        "process_table",
        "text_search",
        "sha256_file",
        "json_query",
    ] {
        assert!(enabled.contains(&name), "{name}");
    }
    assert!(!enabled.contains(&"sh"));
    assert!(registry.tools().any(|t| t.name == "sh"));
    assert!(registry.tools().any(|t| t.track == Track::Mutator));
}

#[test]
fn a_parameter_is_one_argument_whatever_it_contains() {
    let registry = registry(&spec()).unwrap();
    let argv = registry.argv("t", &params(&json!({"path": "a b; rm -rf / $(x)\n-v"}))).unwrap();
    assert_eq!(argv, ["/bin/t", "--", "a b; rm -rf / $(x)\n-v", "5"]);
    let argv = registry.argv("t", &params(&json!({"path": "x", "n": 7}))).unwrap();
    assert_eq!(argv, ["/bin/t", "--", "x", "7"]);
}

#[test]
fn parameters_against_the_schema_are_refused_with_a_place() {
    let registry = registry(&spec()).unwrap();
    for (bad, place) in [
        (json!({}), "path"),
        (json!({"path": 1}), "/path"),
        (json!({"path": ""}), "/path"),
        (json!({"path": "x", "n": "5"}), "/n"),
        (json!({"path": "x", "extra": 1}), "extra"),
    ] {
        let error = registry.argv("t", &params(&bad)).unwrap_err();
        assert!(matches!(error, CallError::InvalidParams { .. }), "{error:?}");
        assert!(error.to_string().contains(place), "{error}");
    }
    let nul = registry.argv("t", &params(&json!({"path": "a\0b"}))).unwrap_err();
    assert!(nul.to_string().contains("NUL"));
    let fits = params(&json!({"path": "x".repeat((128 << 10) - 1)}));
    assert!(registry.argv("t", &fits).is_ok());
    let long = params(&json!({"path": "x".repeat(128 << 10)}));
    assert!(registry.argv("t", &long).unwrap_err().to_string().contains("131071 bytes"));
}

#[test]
fn unknown_and_disabled_are_different() {
    let mut off = spec();
    off["enabled"] = json!(false);
    let mut registry = registry(&off).unwrap();
    let call = params(&json!({"path": "x"}));
    assert_eq!(registry.check("u", &call), Err(CallError::Unknown("u".into())));
    assert_eq!(registry.check("t", &call), Err(CallError::Disabled("t".into())));
    assert!(matches!(registry.enable(["u"]), Err(RegistryError::NoSuchTool(_))));
    registry.enable(["t"]).unwrap();
    assert!(registry.check("t", &call).is_ok());
}

#[test]
fn tools_that_cannot_work_are_refused_by_name() {
    for (pointer, value) in [
        ("/name", json!("")),
        ("/name", json!("a,b")),
        ("/name", json!("x".repeat(257))),
        ("/argv", json!([])),
        ("/argv", json!(["t"])),
        ("/argv", json!([{"param": "path"}])),
        ("/argv", json!(["/bin/t", {"param": "nope"}])),
        ("/params/type", json!("array")),
        ("/params/additionalProperties", json!(true)),
        ("/params/properties/path", json!({"type": "nonsense"})),
        ("/limits/deadline_ms", json!(0)),
        ("/limits/deadline_ms", json!(600_001)),
        ("/limits/output_bytes", json!(5 << 20)),
        ("/limits/pids", json!(0)),
        ("/limits/pids", json!(1025)),
        ("/limits/memory_mib", json!(0)),
        ("/limits/memory_mib", json!(8193)),
        ("/limits/scratch_mib", json!(0)),
        ("/limits/scratch_mib", json!(9)),
        ("/estimated_duration_ms", json!(600_001)),
        ("/argv/1", json!("a\0b")),
        ("/argv/3/default", json!("five")),
        ("/argv/2", json!({"param": "path", "default": ""})),
    ] {
        let mut bad = spec();
        *bad.pointer_mut(pointer).unwrap() = value.clone();
        let result = registry(&bad);
        assert!(matches!(result, Err(RegistryError::Tool { .. })), "{pointer} {value}");
    }
    let twice = Registry::parse(&json!([spec(), spec()]).to_string());
    assert!(matches!(twice, Err(RegistryError::Tool { .. })));
    let mut extra = spec();
    extra["shell"] = json!(true);
    assert!(matches!(registry(&extra), Err(RegistryError::Json(_))));
}
