//! `dev-relay dispatch`

mod params;

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use dev_relay::operator::client::{
    Credentials, OperatorClient, OperatorError, Preview, Request, Told,
};
use serde_json::{Value, json};

use super::ready::{OPERATOR, Ready};
use super::{complain, printable, say};

/// How much longer than the deadline the end of a command is waited for.
const GRACE: Duration = Duration::from_secs(5);
/// Longest answer to a question that is read.
const MAX_ANSWER: u64 = 64;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The ready file of the relay.
    #[arg(long, value_name = "FILE", required_unless_present = "operator_key")]
    ready_file: Option<PathBuf>,

    /// Where the relay is.
    #[arg(long, value_name = "URL", conflicts_with = "ready_file")]
    #[arg(default_value = "ws://127.0.0.1:8443")]
    relay: String,

    /// The operators' secret at the relay.
    #[arg(long, value_name = "KEY", env = "DEV_RELAY_OPERATOR_KEY", hide_env_values = true)]
    #[arg(allow_hyphen_values = true)]
    #[arg(conflicts_with = "ready_file")]
    operator_key: Option<String>,

    /// Who asks.
    #[arg(long, value_name = "ID", default_value = OPERATOR)]
    operator: String,

    /// The tenant.
    #[arg(long, value_name = "ID", conflicts_with = "ready_file", default_value = "tenant-local")]
    tenant: String,

    /// Where the tool is to run.
    #[arg(long, value_name = "ID", required = true)]
    endpoint: String,

    /// Tool to run.
    tool: String,

    /// Parameters as a JSON object.
    #[arg(long, value_name = "JSON", conflicts_with = "param")]
    params: Option<String>,

    /// One parameter; can be repeated. KEY=VALUE is text, KEY:=VALUE is JSON.
    #[arg(short, long, value_name = "KEY=VALUE")]
    param: Vec<String>,

    /// Milliseconds the command may take, 1000 to 600000.
    #[arg(long, value_name = "N", default_value_t = 30_000)]
    deadline_ms: u64,

    /// Confirm the preview without asking.
    #[arg(long)]
    yes: bool,

    /// Print every frame as JSON, one line each.
    #[arg(long)]
    json: bool,
}

/// Why a dispatch ends, as an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Completed = 0,
    ToolFailed = 1,
    Declined = 2,
    NotLetIn = 3,
    TimedOut = 4,
    Protocol = 5,
}

impl Exit {
    /// After an error with a code of the protocol.
    fn of_code(code: &str) -> Self {
        match code {
            "RELAY_OPERATOR_DECLINED" | "RELAY_PREVIEW_HASH_MISMATCH" => Self::Declined,
            "RELAY_ENDPOINT_UNREACHABLE"
            | "RELAY_ENDPOINT_NOT_FOUND"
            | "OPERATOR_IDENTITY_MISMATCH" => Self::NotLetIn,
            "ENDPOINT_NO_ACK" | "RELAY_DEADLINE_EXCEEDED" => Self::TimedOut,
            code if code.starts_with("AUTH_") => Self::NotLetIn,
            code if code.starts_with("ENDPOINT_") || code.starts_with("SANDBOX_") => {
                Self::ToolFailed
            }
            _ => Self::Protocol,
        }
    }
}

pub async fn run(arguments: Arguments) -> ExitCode {
    match converse(arguments).await {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(Failure::Usage(error)) => complain(&error, 2),
        Err(Failure::Operator(error)) => {
            let exit = match &error {
                OperatorError::Refused { code, .. } => Exit::of_code(code),
                OperatorError::OtherPreview => Exit::Declined,
                _ => Exit::Protocol,
            };
            complain(&error, exit as u8)
        }
    }
}

enum Failure {
    Usage(String),
    Operator(OperatorError),
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        Self::Operator(error)
    }
}

async fn converse(arguments: Arguments) -> Result<Exit, Failure> {
    let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
    let params = params::read(arguments.params.as_deref(), &arguments.param)
        .map_err(|error| usage(&error))?;
    let (url, api_key, tenant_id) = match &arguments.ready_file {
        Some(path) => {
            let ready = Ready::read(path).map_err(|error| usage(&error))?;
            (ready.ws_url, ready.operator_api_key, ready.tenant_id)
        }
        None => (arguments.relay, arguments.operator_key.unwrap_or_default(), arguments.tenant),
    };
    let credentials = Credentials { api_key, operator_id: arguments.operator, tenant_id };
    let mut operator = OperatorClient::connect(&url, credentials).await?;
    let deadline_ms = arguments.deadline_ms;
    let request =
        Request { endpoint_id: arguments.endpoint, tool: arguments.tool, params, deadline_ms };
    let preview = operator.request(&request).await?;
    let printer = Printer { json: arguments.json, from: Instant::now() };
    printer.preview(&preview);
    let confirmed = arguments.yes || ask().map_err(|error| usage(&error))?;
    let printer = Printer { from: Instant::now(), ..printer };
    operator.confirm(&preview, confirmed).await?;
    let end = follow(&mut operator, &printer);
    let limit = Duration::from_millis(deadline_ms).saturating_add(GRACE);
    let Ok(exit) = tokio::time::timeout(limit, end).await else {
        eprintln!("dev-relay: the command did not end within {} s", limit.as_secs());
        return Ok(Exit::TimedOut);
    };
    Ok(exit?)
}

/// Asks on the terminal.
fn ask() -> io::Result<bool> {
    eprint!("Proceed? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().take(MAX_ANSWER).read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn follow(operator: &mut OperatorClient, printer: &Printer) -> Result<Exit, OperatorError> {
    loop {
        match operator.next().await? {
            Told::Progress(frame) => printer.progress(&frame),
            Told::Result(frame) => return Ok(printer.result(&frame)),
            Told::Error(frame) => {
                printer.error(&frame);
                // Complaints about the endpoint end nothing; the relay's timer or the result does.
                let code = frame["code"].as_str().unwrap_or_default();
                let goes_on = ["RELAY_INTERNAL_ERROR", "RELAY_ENDPOINT_MISMATCH"].contains(&code);
                if !goes_on {
                    return Ok(Exit::of_code(code));
                }
            }
        }
    }
}

/// Prints frames, or what they say.
struct Printer {
    json: bool,
    /// When the command was confirmed.
    from: Instant,
}

impl Printer {
    fn preview(&self, preview: &Preview) {
        if self.json {
            self.line(&preview.frame);
        } else {
            eprintln!("{}", printable(&preview.summary));
        }
    }

    fn progress(&self, frame: &Value) {
        let state = frame["lifecycle_state"].as_str().unwrap_or_default();
        let message = frame["progress"]["message"].as_str().unwrap_or_default();
        let fraction = frame["progress"]["fraction"]
            .as_f64()
            .map_or_else(String::new, |fraction| format!(" {:.0} %", fraction * 100.0));
        self.say(frame, &format!("{state}{fraction} {message}"));
    }

    fn error(&self, frame: &Value) {
        self.say(frame, &reason(frame));
    }

    fn result(&self, frame: &Value) -> Exit {
        let completed = frame["lifecycle_state"] == "completed";
        if completed && !self.json {
            // Where standard output is closed there is no reader to tell.
            let text = |name: &str| frame["payload"][name].as_str().unwrap_or_default().to_owned();
            let _ = io::stdout().write_all(text("stdout").as_bytes());
            let _ = io::stderr().write_all(text("stderr").as_bytes());
        }
        let words = if completed {
            "completed".to_owned()
        } else {
            format!("failed: {}", reason(&frame["error"]))
        };
        self.say(frame, &words);
        match frame["payload"]["exit_code"].as_i64() {
            _ if !completed => Exit::ToolFailed,
            Some(0) | None => Exit::Completed,
            Some(_) => Exit::ToolFailed,
        }
    }

    fn say(&self, frame: &Value, words: &str) {
        if self.json {
            self.line(frame);
        } else {
            eprintln!("{:8.1} ms  {}", self.elapsed_ms(), printable(words.trim_end()));
        }
    }

    fn line(&self, frame: &Value) {
        say(&json!({ "ms": self.elapsed_ms(), "frame": frame }).to_string());
    }

    fn elapsed_ms(&self) -> f64 {
        self.from.elapsed().as_secs_f64() * 1000.0
    }
}

fn reason(error: &Value) -> String {
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    format!("{}: {}", text("code"), text("message"))
}
