use guest::evidence::Chain;
use serde_json::json;

use super::*;

fn gate(enable: &[&str]) -> Result<Gate, RegistryError> {
    let tool = |name: &str, enabled: bool| {
        json!({
            "name": name, "description": "d", "track": "data_provider", "enabled": enabled,
            "argv": ["/bin/t", "--", {"param": "path"}],
            "params": {
                "type": "object", "additionalProperties": false, "required": ["path"],
                "properties": {"path": {"type": "string"}},
            },
            "limits": {"deadline_ms": 5000, "memory_mib": 8, "pids": 4, "output_bytes": 1024,
                       "scratch_mib": 1},
            "estimated_duration_ms": 10,
        })
    };
    let manifest = json!({
        "schema_version": 1, "input_digest": "", "artifacts": {}, "inputs": {},
        "kernel_cmdline": "", "guest_port": 52000, "versions": {},
        "tools": [tool("on", true), tool("off", false)],
    });
    let enable: Vec<String> = enable.iter().map(|&name| name.to_owned()).collect();
    Gate::new(Some(&ImageManifest::parse(&manifest.to_string()).unwrap()), &enable)
}

fn call(tool: &str, deadline_ms: i64) -> ToolCall {
    let params = json!({"path": "/x"}).as_object().unwrap().clone();
    ToolCall { command_id: "c".into(), tool: tool.into(), params, deadline_ms }
}

fn admitted(gate: &Gate, call: &ToolCall) -> Admitted {
    match gate.admit(call).unwrap() {
        Admission::Admitted(admitted) => admitted,
        Admission::Refused(outcome) => panic!("{outcome:?}"),
    }
}

fn refused(gate: &Gate, call: &ToolCall) -> ToolOutcome {
    match gate.admit(call).unwrap() {
        Admission::Refused(outcome) => *outcome,
        Admission::Admitted(admitted) => panic!("{admitted:?}"),
    }
}

#[test]
fn a_good_call_goes_through_with_the_tools_limits() {
    let gate = gate(&[]).unwrap();
    let expected = |deadline_ms| Admitted { deadline_ms, output_bytes: 1024 };
    assert_eq!(admitted(&gate, &call("on", 1)), expected(1));
    assert_eq!(admitted(&gate, &call("on", 5001)), expected(5000));
    assert_eq!(admitted(&gate, &call("on", i64::MAX)), expected(5000));
    assert_eq!(expected(5000).deadline(), Duration::from_secs(5));
}

#[test]
fn unknown_and_disabled_tools_exit_127_with_evidence_of_nothing() {
    let gate = gate(&[]).unwrap();
    for tool in ["nope", "off"] {
        let outcome = refused(&gate, &call(tool, 1000));
        assert_eq!((outcome.exit_code, outcome.reason), (127, Some(ResultReason::UnknownTool)));
        assert!(outcome.message.unwrap().contains(tool));
        let mut chain = Chain::new("c");
        chain.append(b"");
        assert_eq!(outcome.evidence_hash, chain.hash());
    }
}

#[test]
fn enabling_needs_a_tool_to_enable() {
    assert!(matches!(gate(&["nope"]), Err(RegistryError::NoSuchTool(_))));
    assert_eq!(admitted(&gate(&["off"]).unwrap(), &call("off", 9)).deadline_ms, 9);
}

#[test]
fn bad_params_exit_254_and_say_why() {
    let mut bad = call("on", 1000);
    bad.params.clear();
    let outcome = refused(&gate(&[]).unwrap(), &bad);
    assert_eq!((outcome.exit_code, outcome.reason), (254, Some(ResultReason::InvalidParams)));
    assert!(outcome.message.unwrap().contains("path"));
}

#[test]
fn no_time_left_fails_at_once_whatever_the_tool() {
    for (tool, deadline_ms) in [("on", 0), ("on", -1), ("nope", i64::MIN)] {
        let error = gate(&[]).unwrap().admit(&call(tool, deadline_ms)).unwrap_err();
        assert_eq!(error.code(), "SANDBOX_TOOL_TIMEOUT");
        assert!(matches!(
            error,
            SandboxError::ToolTimeout { deadline_ms: d, stopped_by: StoppedBy::NotStarted, .. }
                if d == deadline_ms
        ));
    }
}

#[test]
fn without_a_manifest_the_guest_decides() {
    let gate = Gate::new(None, &["whatever".into()]).unwrap();
    let admitted = admitted(&gate, &call("anything", i64::MAX));
    let output_bytes = 4 << 20;
    assert_eq!(admitted, Admitted { deadline_ms: 600_000, output_bytes });
}
