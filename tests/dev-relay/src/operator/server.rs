//! An operator's connection: who it is, what it asks for, what it confirms.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::auth::{OperatorKey, ProofError};
use super::preview;
use crate::command::{CommandHandle, Happening, Outcome};
use crate::connection::{End, Line, Reader};
use crate::dispatch::{DispatchOptions, builder, send};
use crate::random;
use crate::shared::Shared;

/// Requests an operator may leave unconfirmed.
const MAX_PENDING: usize = 1000;
/// Stands for a request identifier where there is none.
const NO_REQUEST: &str = "(no-request-id)";

/// A refusal as operators see it.
#[derive(Debug)]
struct Refusal {
    code: &'static str,
    message: String,
}

fn refusal(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

impl From<ProofError> for Refusal {
    fn from(problem: ProofError) -> Self {
        refusal(problem.code(), problem.to_string())
    }
}

/// A request that waits for its confirmation.
struct Pending {
    request: Value,
    request_id: String,
    preview_hash: String,
}

/// An operator that has said who it is.
struct Operator {
    shared: Arc<Shared>,
    line: Line,
    id: String,
    key: OperatorKey,
    pending: HashMap<String, Pending>,
}

/// Serves one operator until the connection ends.
pub(crate) async fn serve(shared: Arc<Shared>, line: Line, reader: &mut Reader) -> End {
    let Some(hello) = next_frame(reader).await else { return End::Peer };
    let mut operator = match welcome(shared, line.clone(), &hello) {
        Ok(operator) => operator,
        Err(problem) => {
            line.send_text(error_event(NO_REQUEST, None, problem.code, &problem.message));
            return End::Close(1008, problem.code.to_owned());
        }
    };
    while let Some(frame) = next_frame(reader).await {
        let request_id = frame["request_id"].as_str().unwrap_or(NO_REQUEST).to_owned();
        let done = match frame["type"].as_str() {
            Some("DispatchRequest") => operator.request(&request_id, frame),
            Some("ConfirmRequest") => operator.confirm(&frame),
            _ => Err(refusal("RELAY_REQUEST_INVALID", "not a frame operators send")),
        };
        if let Err(problem) = done {
            line.send_text(error_event(&request_id, None, problem.code, &problem.message));
        }
    }
    End::Peer
}

/// The next frame as JSON; null for what is none.
async fn next_frame(reader: &mut Reader) -> Option<Value> {
    loop {
        match reader.next().await? {
            Message::Text(text) => return Some(serde_json::from_str(&text).unwrap_or_default()),
            Message::Binary(bytes) => {
                return Some(serde_json::from_slice(&bytes).unwrap_or_default());
            }
            _ => {}
        }
    }
}

fn welcome(shared: Arc<Shared>, line: Line, hello: &Value) -> Result<Operator, Refusal> {
    if hello["type"] != "OperatorHello" {
        return Err(refusal("AUTH_MALFORMED", "the first frame must be OperatorHello"));
    }
    let id = hello["operator"]["id"].as_str().filter(|id| !id.is_empty());
    let tenant_id = hello["tenant_id"].as_str();
    let (Some(id), Some(tenant_id)) = (id, tenant_id) else {
        return Err(refusal("AUTH_MALFORMED", "operator.id and tenant_id must be texts"));
    };
    if tenant_id != shared.config.tenant_id {
        return Err(refusal("AUTH_TENANT_MISMATCH", "this relay serves another tenant"));
    }
    let key = OperatorKey::derive(&shared.config.operator_api_key, id, tenant_id);
    key.verify(hello)?;
    let ack = json!({
        "type": "OperatorHelloAck",
        "operator_session_id": random::uuid(),
        "server_protocol_version": "v1",
        "ts": shared.state().now(),
    });
    line.send_text(ack.to_string());
    Ok(Operator { shared, line, id: id.to_owned(), key, pending: HashMap::new() })
}

impl Operator {
    /// Answers a request with its preview.
    fn request(&mut self, request_id: &str, request: Value) -> Result<(), Refusal> {
        check_request(&request)?;
        if request["tenant_id"] != self.shared.config.tenant_id.as_str() {
            return Err(refusal("AUTH_TENANT_MISMATCH", "the session is of another tenant"));
        }
        if request["operator"]["id"] != self.id.as_str() {
            return Err(refusal(
                "OPERATOR_IDENTITY_MISMATCH",
                "the session is of another operator",
            ));
        }
        self.key.verify(&request)?;
        self.session(&request)?;
        if self.pending.len() >= MAX_PENDING {
            return Err(refusal("RELAY_RATE_LIMITED", "too many requests wait for confirmation"));
        }
        let summary = preview::summary(&request);
        let preview_hash = preview::hash(&request, &summary)
            .map_err(|error| refusal("RELAY_REQUEST_INVALID", error.to_string()))?;
        let command_id = random::uuid();
        let shown = json!({
            "type": "ChangeSetPreview",
            "request_id": request_id,
            "command_id": command_id,
            "preview_summary": summary,
            "preview_hash": preview_hash,
            "blast_radius": "low",
            "reversibility": "moderate",
        });
        let request_id = request_id.to_owned();
        self.pending.insert(command_id, Pending { request, request_id, preview_hash });
        self.line.send_text(shown.to_string());
        Ok(())
    }

    /// Sends the command of a confirmed request and follows it.
    fn confirm(&mut self, confirm: &Value) -> Result<(), Refusal> {
        let command_id = confirm["command_id"].as_str().unwrap_or_default();
        let Some(pending) = self.pending.remove(command_id) else {
            return Err(refusal("RELAY_UNKNOWN_COMMAND_ID", "no request waits under this command"));
        };
        let sent = self.dispatch(command_id, confirm, &pending);
        match sent {
            Ok(handle) => {
                let line = self.line.clone();
                tokio::spawn(follow(handle, pending.request_id, line));
            }
            Err(problem) => {
                let (code, message) = (problem.code, &problem.message);
                let event = error_event(&pending.request_id, Some(command_id), code, message);
                self.line.send_text(event);
            }
        }
        Ok(())
    }

    fn dispatch(
        &self,
        command_id: &str,
        confirm: &Value,
        pending: &Pending,
    ) -> Result<CommandHandle, Refusal> {
        if confirm["preview_hash"] != pending.preview_hash.as_str() {
            return Err(refusal("RELAY_PREVIEW_HASH_MISMATCH", "another preview was confirmed"));
        }
        if confirm["confirm"] != true {
            return Err(refusal("RELAY_OPERATOR_DECLINED", "the operator declined"));
        }
        let request = &pending.request;
        let session = self.session(request)?;
        let mut shown = request["operator"].clone();
        if let Some(operator) = shown.as_object_mut() {
            operator.remove("auth_proof");
        }
        let options = DispatchOptions {
            correlation_id: request["correlation_id"].as_str().unwrap_or_default().to_owned(),
            operator: shown,
        };
        let tool = request["tool"].as_str().unwrap_or_default();
        let envelope = builder(&self.shared, &session, tool, &request["params"], &options)
            .field("command_id", command_id)
            .sign()
            .map_err(|error| refusal("RELAY_REQUEST_INVALID", error.to_string()))?;
        send(&self.shared, &session, &envelope)
            .map_err(|error| refusal("RELAY_ENDPOINT_UNREACHABLE", error.to_string()))
    }

    /// The session a request is for.
    fn session(&self, request: &Value) -> Result<crate::shared::Session, Refusal> {
        let endpoint_id = request["target_endpoint_id"].as_str().unwrap_or_default();
        let state = self.shared.state();
        let session = state.sessions.get(endpoint_id).cloned().ok_or_else(|| {
            refusal("RELAY_ENDPOINT_UNREACHABLE", format!("{endpoint_id} has no session"))
        })?;
        if session.info.tenant_id == self.shared.config.tenant_id {
            Ok(session)
        } else {
            Err(refusal("AUTH_TENANT_MISMATCH", "the endpoint is of another tenant"))
        }
    }
}

/// The closed schema of a request, as far as no other code checks it.
fn check_request(request: &Value) -> Result<(), Refusal> {
    const FIELDS: [&str; 9] = [
        "type",
        "request_id",
        "tool",
        "params",
        "target_endpoint_id",
        "tenant_id",
        "correlation_id",
        "operator",
        "options",
    ];
    let invalid = |what: &str| Err(refusal("RELAY_REQUEST_INVALID", what));
    let empty = Map::new();
    let fields = request.as_object().unwrap_or(&empty);
    if fields.len() != FIELDS.len() || FIELDS.iter().any(|name| !fields.contains_key(*name)) {
        return invalid("a DispatchRequest has exactly nine fields");
    }
    let correlation = request["correlation_id"].as_str().unwrap_or_default();
    if !(1..=256).contains(&correlation.len()) || !correlation.bytes().all(|b| b.is_ascii_graphic())
    {
        let message = "correlation_id must be 1 to 256 printable characters";
        return Err(refusal("CORRELATION_ID_INVALID", message));
    }
    let tool = request["tool"].as_str().unwrap_or_default();
    if !(1..=256).contains(&tool.chars().count()) {
        return invalid("tool must have 1 to 256 characters");
    }
    if !request["params"].is_object() {
        return invalid("params must be an object");
    }
    let operator = &request["operator"];
    match operator["kind"].as_str() {
        Some("human") => {}
        Some("agent") if operator["originating_human_id"].is_string() => {}
        Some("agent") => return invalid("an agent must name its originating_human_id"),
        _ => return invalid("operator.kind must be human or agent"),
    }
    let deadline = request["options"]["deadline_ms"].as_u64();
    if !deadline.is_some_and(|ms| (1000..=600_000).contains(&ms)) {
        return invalid("options.deadline_ms must be 1000 to 600000");
    }
    Ok(())
}

fn error_event(request_id: &str, command_id: Option<&str>, code: &str, message: &str) -> String {
    json!({
        "type": "ErrorEvent",
        "request_id": request_id,
        "command_id": command_id,
        "code": code,
        "message": message,
        "ts": protocol::timestamp::Timestamp::now(),
    })
    .to_string()
}

/// Tells the operator what happens to a command, to its end.
async fn follow(mut handle: CommandHandle, request_id: String, line: Line) {
    let command_id = handle.command_id().to_owned();
    let head =
        |kind: &str| json!({ "type": kind, "request_id": request_id, "command_id": command_id });
    let error =
        |code: &str, message: &str| error_event(&request_id, Some(&command_id), code, message);
    while let Some(event) = handle.next().await {
        let told = match event.what {
            Happening::Dispatched => continue,
            Happening::Started(_) => {
                let mut told = head("ProgressEvent");
                told["lifecycle_state"] = "started".into();
                told["ts"] = json!(protocol::timestamp::Timestamp::now());
                told.to_string()
            }
            Happening::Progress(frame) => {
                let mut told = head("ProgressEvent");
                for name in ["lifecycle_state", "progress", "ts"] {
                    if let Some(value) = frame.get(name) {
                        told[name] = value.clone();
                    }
                }
                told.to_string()
            }
            Happening::Complaint { code, message } => error(code, &message),
            Happening::Finished(Outcome::Result(frame)) => {
                let completed = frame["lifecycle_state"] == "completed";
                let mut told = head("ResultEvent");
                for name in ["lifecycle_state", "evidence_hash", "ts"] {
                    told[name] = frame[name].clone();
                }
                told["payload"] = if completed { frame["payload"].clone() } else { Value::Null };
                told["error"] = if completed { Value::Null } else { frame["error"].clone() };
                told.to_string()
            }
            Happening::Finished(outcome) => {
                let message = outcome.frame()["message"].as_str().unwrap_or(match outcome {
                    Outcome::NoAck => "the endpoint did not acknowledge in time",
                    _ => "the relay was restarted",
                });
                error(outcome.code().unwrap_or("RELAY_INTERNAL_ERROR"), message)
            }
        };
        if !line.send_text(told) {
            return;
        }
    }
}
