//! `dev-relay token`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use dev_relay::http::client::post;
use dev_relay::operator::client::loopback;
use serde_json::json;

use super::ready::Ready;
use super::{complain, say};

#[derive(Debug, Args)]
pub struct Arguments {
    /// The ready file of the relay.
    #[arg(long, value_name = "FILE", required_unless_present = "admin_token")]
    ready_file: Option<PathBuf>,

    /// Where the relay enrolls endpoints.
    #[arg(long, value_name = "URL", conflicts_with = "ready_file")]
    #[arg(default_value = "http://127.0.0.1:8444")]
    relay: String,

    /// The administration token of the relay.
    #[arg(long, value_name = "TOKEN", env = "DEV_RELAY_ADMIN_TOKEN", hide_env_values = true)]
    #[arg(allow_hyphen_values = true)]
    #[arg(conflicts_with = "ready_file")]
    admin_token: Option<String>,

    /// The tenant.
    #[arg(long, value_name = "ID", conflicts_with = "ready_file", default_value = "tenant-local")]
    tenant: String,

    /// Whom the token is for [default: a new endpoint].
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,

    /// Print the relay's answer instead of the token alone.
    #[arg(long)]
    json: bool,
}

pub async fn run(arguments: Arguments) -> ExitCode {
    let (url, admin_token, tenant) = match &arguments.ready_file {
        Some(path) => match Ready::read(path) {
            Ok(ready) => (ready.http_url, ready.admin_token, ready.tenant_id),
            Err(error) => return complain(&error, 2),
        },
        None => (arguments.relay, arguments.admin_token.unwrap_or_default(), arguments.tenant),
    };
    let Some(address) = loopback(&url, "http://") else {
        let what = format!("{url:?} is no relay on this machine; example: http://127.0.0.1:8444");
        return complain(&what, 2);
    };
    let mut body = json!({ "tenant_id": tenant });
    if let Some(endpoint) = arguments.endpoint {
        body["endpoint_id"] = endpoint.into();
    }
    let path = "/v1/admin/endpoint/enroll";
    match post(address, path, Some(&admin_token), &body.to_string()).await {
        Ok((200, answer)) if arguments.json => say(&answer.to_string()),
        Ok((200, answer)) => say(answer["bootstrap_token"].as_str().unwrap_or_default()),
        Ok((status, answer)) => {
            let code = answer["code"].as_str().unwrap_or("no code");
            return complain(&format!("the relay refused: {status} {code}"), 3);
        }
        Err(error) => return complain(&error, 5),
    }
    ExitCode::SUCCESS
}
