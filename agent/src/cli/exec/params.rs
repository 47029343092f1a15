//! Parameters of a tool from the command line.

use guest::manifest::ImageManifest;
use serde_json::{Map, Value};
use thiserror::Error;

use super::Arguments;
use sandbox::ImageSource;

/// Why the parameters cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParamsError {
    /// `--params` is not JSON.
    #[error("--params is not JSON: {0}; example: --params '{{\"message\":\"hello\"}}'")]
    NotJson(String),
    /// `--params` is JSON, but no object.
    #[error("--params is not a JSON object; example: --params '{{\"message\":\"hello\"}}'")]
    NotAnObject,
    /// `-p` without a value.
    #[error("-p {0:?} has no `=`; example: -p message=hello")]
    NoValue(String),
    /// A key given twice.
    #[error("-p {0} is given twice")]
    Twice(String),
}

/// Reads `--params` or all `-p`. Values of the latter are text, unless the tool's schema asks for
/// something else.
pub fn read(arguments: &Arguments, image: &ImageSource) -> Result<Map<String, Value>, ParamsError> {
    if let Some(text) = &arguments.params {
        return from_json(text);
    }
    // Without a manifest everything is text; what is wrong with it is reported by the boot.
    let manifest = image.manifest().ok().flatten();
    from_pairs(&arguments.param, schema(manifest.as_ref(), &arguments.tool))
}

fn schema<'a>(manifest: Option<&'a ImageManifest>, tool: &str) -> Option<&'a Value> {
    manifest?.tools.iter().find(|spec| spec.name == tool).map(|spec| &spec.params)
}

fn from_json(text: &str) -> Result<Map<String, Value>, ParamsError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(params)) => Ok(params),
        Ok(_) => Err(ParamsError::NotAnObject),
        Err(e) => Err(ParamsError::NotJson(e.to_string())),
    }
}

fn from_pairs(pairs: &[String], schema: Option<&Value>) -> Result<Map<String, Value>, ParamsError> {
    let mut params = Map::new();
    for pair in pairs {
        let (key, text) = pair.split_once('=').ok_or_else(|| ParamsError::NoValue(pair.clone()))?;
        let value = match wanted_type(schema, key) {
            // Text that is not of the wanted type goes on as it is: the schema's own error says
            // what is wrong with it.
            Some(kind) if kind != "string" => serde_json::from_str(text).unwrap_or(text.into()),
            _ => text.into(),
        };
        if params.insert(key.to_owned(), value).is_some() {
            return Err(ParamsError::Twice(key.to_owned()));
        }
    }
    Ok(params)
}

fn wanted_type<'a>(schema: Option<&'a Value>, key: &str) -> Option<&'a str> {
    schema?.get("properties")?.get(key)?.get("type")?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pairs(list: &[&str]) -> Result<Value, ParamsError> {
        let list: Vec<String> = list.iter().map(|&pair| pair.to_owned()).collect();
        let schema = json!({"properties": {
            "message": {"type": "string"}, "count": {"type": "integer"}, "all": {"type": "boolean"},
        }});
        from_pairs(&list, Some(&schema)).map(Value::Object)
    }

    #[test]
    fn values_take_the_type_of_the_schema() {
        let params = pairs(&["message=5", "count=5", "all=true", "other=1"]);
        let expected = json!({"message": "5", "count": 5, "all": true, "other": "1"});
        assert_eq!(params, Ok(expected));
        assert_eq!(pairs(&["count=many"]), Ok(json!({"count": "many"})));
    }

    #[test]
    fn a_value_may_hold_anything_even_nothing() {
        assert_eq!(pairs(&["message=a=b\n"]), Ok(json!({"message": "a=b\n"})));
        assert_eq!(pairs(&["message="]), Ok(json!({"message": ""})));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(pairs(&["message"]), Err(ParamsError::NoValue("message".into())));
        assert_eq!(pairs(&["a=1", "a=2"]), Err(ParamsError::Twice("a".into())));
        assert_eq!(from_json("[]"), Err(ParamsError::NotAnObject));
        assert!(matches!(from_json("{"), Err(ParamsError::NotJson(_))));
    }
}
