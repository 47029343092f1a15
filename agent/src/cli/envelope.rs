//! `brainstorm-agent envelope`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use ed25519_dalek::VerifyingKey;
use serde::Serialize;

use super::stdin::{self, StdinError};
use super::{Exit, terminal};
use protocol::canonical::MAX_BYTES;
use protocol::keyring::public_key_of_hex;
use protocol::verify::{Checks, Keys};
use protocol::{Check, ErrorCode, Refusal, Timestamp};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: EnvelopeAction,
}

#[derive(Debug, Subcommand)]
enum EnvelopeAction {
    /// Check the envelope on standard input as a running agent would, and say which check fails.
    Verify(VerifyEnvelope),
}

#[derive(Debug, Args)]
struct VerifyEnvelope {
    /// The key that must have signed it, whatever the envelope calls it: 64 hex digits.
    #[arg(long, value_name = "HEX", value_parser = public_key)]
    public_key: VerifyingKey,

    /// The endpoint it must be for; any when left out.
    #[arg(long, value_name = "UUID")]
    endpoint_id: Option<String>,

    /// The tenant it must be for; any when left out.
    #[arg(long, value_name = "TENANT")]
    tenant_id: Option<String>,

    /// The session it must be for; any when left out.
    #[arg(long, value_name = "UUID")]
    session_id: Option<String>,

    /// Check its times against this time instead of the system's clock.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "no_time")]
    now: Option<Timestamp>,

    /// Do not check its times against any clock. How long it lives is still checked.
    #[arg(long)]
    no_time: bool,

    /// Print the verdict as JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct EnvelopeVerdict<'a> {
    valid: bool,
    command_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<ErrorCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// Checks that were not asked for.
    not_checked: &'a [Check],
}

fn public_key(text: &str) -> Result<VerifyingKey, &'static str> {
    public_key_of_hex(text).ok_or("not an Ed25519 public key in 64 hex digits")
}

fn time(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse(text).ok_or("not a time like 2026-01-02T03:04:05Z")
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let EnvelopeAction::Verify(arguments) = &arguments.command;
    let checks = arguments.checks();
    let result = match stdin::text(MAX_BYTES) {
        Ok(text) => checks.run(&text).map(|envelope| envelope.command_id),
        Err(error @ StdinError::Io(_)) => return terminal::complain(&error, Exit::Refused),
        Err(error @ StdinError::TooLarge(_)) => Err(unread(Check::Size, &error)),
        Err(error @ StdinError::NotText) => Err(unread(Check::Json, &error)),
    };
    let left_out = left_out(&checks);
    let printed = if arguments.json {
        terminal::print_json(&verdict(&result, &left_out))
    } else {
        terminal::print(in_words(&result, &left_out).as_bytes())
    };
    match (printed, result) {
        (Err(error), _) => terminal::complain(&error, Exit::Refused),
        (Ok(()), Err(_)) => Exit::Refused.into(),
        (Ok(()), Ok(_)) => ExitCode::SUCCESS,
    }
}

impl VerifyEnvelope {
    fn checks(&self) -> Checks<'_> {
        Checks {
            keys: Keys::One(&self.public_key),
            endpoint_id: self.endpoint_id.as_deref(),
            tenant_id: self.tenant_id.as_deref(),
            session_id: self.session_id.as_deref(),
            now: (!self.no_time).then(|| self.now.unwrap_or_else(Timestamp::now)),
        }
    }
}

/// What a running agent checks as well.
fn left_out(checks: &Checks<'_>) -> Vec<Check> {
    [
        (Check::Endpoint, checks.endpoint_id.is_some()),
        (Check::Tenant, checks.tenant_id.is_some()),
        (Check::Session, checks.session_id.is_some()),
        (Check::Times, checks.now.is_some()),
        (Check::Nonce, false),
    ]
    .into_iter()
    .filter_map(|(check, made)| (!made).then_some(check))
    .collect()
}

fn unread(check: Check, error: &StdinError) -> Refusal {
    let code = ErrorCode::SchemaInvalid;
    Refusal { code, check, message: error.to_string(), command_id: None }
}

fn verdict<'a>(
    result: &'a Result<String, Refusal>,
    not_checked: &'a [Check],
) -> EnvelopeVerdict<'a> {
    let refusal = result.as_ref().err();
    EnvelopeVerdict {
        valid: result.is_ok(),
        command_id: match result {
            Ok(command_id) => Some(command_id),
            Err(refusal) => refusal.command_id.as_deref(),
        },
        check: refusal.map(|refusal| refusal.check),
        code: refusal.map(|refusal| refusal.code),
        message: refusal.map(|refusal| refusal.message.as_str()),
        not_checked,
    }
}

fn in_words(result: &Result<String, Refusal>, left_out: &[Check]) -> String {
    let left_out: Vec<_> = left_out.iter().map(ToString::to_string).collect();
    let verdict = match result {
        Ok(_) => "valid".to_owned(),
        Err(Refusal { code, check, message, .. }) => format!("{code}\n{check}: {message}"),
    };
    format!("{verdict}\nnot checked: {}\n", left_out.join(", "))
}
