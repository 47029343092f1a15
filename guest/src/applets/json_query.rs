//! `json-query QUERY FILE`: prints the values a JSONPath (RFC 9535) selects, one per line. The
//! functions `match` and `search` are left out: a regex engine would double PID 1's size.

use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;
use serde_json_path::JsonPath;

pub fn run(arguments: &[String]) -> ExitCode {
    let result = match arguments {
        [query, path] => query_file(query, path, &mut std::io::stdout()),
        _ => Err("usage: json-query QUERY FILE".into()),
    };
    super::report("json-query", result)
}

fn query_file(query: &str, path: &str, out: &mut impl Write) -> Result<(), String> {
    let query = JsonPath::parse(query).map_err(|e| format!("not a JSONPath: {e}"))?;
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| format!("{path}: {e}"))?;
    for found in query.query(&value) {
        writeln!(out, "{found}").map_err(|e| e.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_one_per_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"a": [{"b": 1}, {"b": "x"}]}"#).unwrap();
        let mut out = Vec::new();
        query_file("$.a[*].b", file.path().to_str().unwrap(), &mut out).unwrap();
        assert_eq!(out, b"1\n\"x\"\n");
        assert!(query_file("$[", "x", &mut out).unwrap_err().contains("JSONPath"));
        assert!(query_file("$", "/nonexistent", &mut out).unwrap_err().contains("/nonexistent"));
    }
}
