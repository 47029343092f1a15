//! Parameters of a tool from the command line.

use serde_json::{Map, Value};

/// Why the parameters cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParamsError {
    /// `--params` is no JSON object.
    #[error("--params is not a JSON object; example: --params '{{\"message\":\"hello\"}}'")]
    NotAnObject,
    /// `-p` without a value.
    #[error("-p {0:?} has no `=`; example: -p message=hello")]
    NoValue(String),
    /// `-p KEY:=VALUE` with a value that is no JSON.
    #[error("-p {0:?}: what follows `:=` is not JSON; use `=` for text")]
    NotJson(String),
    /// A key given twice.
    #[error("-p {0} is given twice")]
    Twice(String),
}

/// Reads `--params`, or all `-p`.
pub fn read(object: Option<&str>, pairs: &[String]) -> Result<Map<String, Value>, ParamsError> {
    if let Some(text) = object {
        return serde_json::from_str(text).map_err(|_| ParamsError::NotAnObject);
    }
    let mut params = Map::new();
    for pair in pairs {
        let (key, text) = pair.split_once('=').ok_or_else(|| ParamsError::NoValue(pair.clone()))?;
        let (key, value) = match key.strip_suffix(':') {
            Some(key) => {
                let value = serde_json::from_str(text);
                (key, value.map_err(|_| ParamsError::NotJson(pair.clone()))?)
            }
            None => (key, text.into()),
        };
        if params.insert(key.to_owned(), value).is_some() {
            return Err(ParamsError::Twice(key.to_owned()));
        }
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pairs(pairs: &[&str]) -> Result<Value, ParamsError> {
        let pairs: Vec<String> = pairs.iter().map(|&pair| pair.to_owned()).collect();
        read(None, &pairs).map(Value::Object)
    }

    #[test]
    fn values_are_text_or_json() {
        let params = pairs(&["message=5", "count:=5", "url=a=b", "empty="]);
        assert_eq!(params, Ok(json!({"message": "5", "count": 5, "url": "a=b", "empty": ""})));
        assert_eq!(read(Some(r#"{"a":[1]}"#), &[]).map(Value::Object), Ok(json!({"a": [1]})));
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!(pairs(&["message"]), Err(ParamsError::NoValue("message".to_owned())));
        assert_eq!(pairs(&["n:=x"]), Err(ParamsError::NotJson("n:=x".to_owned())));
        assert_eq!(pairs(&["a=1", "a:=2"]), Err(ParamsError::Twice("a".to_owned())));
        assert_eq!(read(Some("[]"), &[]), Err(ParamsError::NotAnObject));
    }
}
