//! Argument templates.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest argument the kernel hands to a program (`MAX_ARG_STRLEN`), without its NUL.
const MAX_ARGUMENT_BYTES: usize = (128 << 10) - 1;

/// One element of a command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ArgvPart {
    /// As it stands.
    Literal(String),
    /// The value of a parameter: one argument, whatever it contains. Left out when the parameter
    /// is absent and has no default.
    Param(ParamPart),
}

/// Names a parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamPart {
    /// Name of the parameter.
    pub param: String,
    /// Value when it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// Fills a template.
pub fn build(template: &[ArgvPart], params: &Map<String, Value>) -> Result<Vec<String>, String> {
    let mut argv = Vec::new();
    for part in template {
        let argument = match part {
            ArgvPart::Literal(text) => Some(text.clone()),
            ArgvPart::Param(part) => match params.get(&part.param) {
                None | Some(Value::Null) => part.default.clone(),
                Some(Value::String(text)) => Some(text.clone()),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
                Some(_) => return Err(format!("{} is not a plain value", part.param)),
            },
        };
        if let Some(argument) = argument {
            if argument.contains('\0') {
                return Err("an argument cannot contain NUL".into());
            }
            if argument.len() > MAX_ARGUMENT_BYTES {
                return Err(format!("an argument cannot exceed {MAX_ARGUMENT_BYTES} bytes"));
            }
            argv.push(argument);
        }
    }
    Ok(argv)
}
