//! `dev-relay`, the relay itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use dev_relay::{Config, DevRelay};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::journal::Journal;
use super::ready::Ready;
use super::{complain, say};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Where endpoints and operators connect; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    ws: SocketAddr,

    /// Where endpoints enroll; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8444")]
    http: SocketAddr,

    /// The tenant of this relay.
    #[arg(long, value_name = "ID", default_value = "tenant-local")]
    tenant: String,

    /// Bearer token of the administration calls [default: a random one].
    #[arg(long, value_name = "TOKEN", env = "DEV_RELAY_ADMIN_TOKEN", hide_env_values = true)]
    #[arg(allow_hyphen_values = true)]
    admin_token: Option<String>,

    /// Secret that operators derive their key from [default: a random one].
    #[arg(long, value_name = "KEY", env = "DEV_RELAY_OPERATOR_KEY", hide_env_values = true)]
    #[arg(allow_hyphen_values = true)]
    operator_key: Option<String>,

    /// Milliseconds an endpoint has to acknowledge a command.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    ack_timeout_ms: u64,

    /// Write addresses, keys and tokens to this file once both ports are open.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,

    /// Print what happens as JSON, one line each, instead of words.
    #[arg(long)]
    json: bool,

    /// Exit with 1 when an endpoint broke a rule of the protocol.
    #[arg(long)]
    strict: bool,
}

pub async fn run(arguments: Arguments) -> ExitCode {
    let mut config = Config {
        ws: arguments.ws,
        http: arguments.http,
        tenant_id: arguments.tenant,
        ack_timeout: Duration::from_millis(arguments.ack_timeout_ms),
        ..Config::default()
    };
    if let Some(token) = arguments.admin_token {
        config.admin_token = token;
    }
    if let Some(key) = arguments.operator_key {
        config.operator_api_key = key;
    }
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (mut terminate, mut interrupt) = match signals {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return complain(&error, 2),
    };
    let relay = match DevRelay::start(config).await {
        Ok(relay) => relay,
        Err(error) => return complain(&error, 2),
    };
    let ready = Ready::of(&relay);
    if let Some(path) = &arguments.ready_file
        && let Err(error) = ready.write(path)
    {
        return complain(&error, 2);
    }
    if arguments.json {
        say(&json!({ "event": "ready", "relay": ready }).to_string());
    } else {
        say(&introduction(&ready, arguments.ready_file.as_deref()));
    }
    let mut bell = relay.changes();
    let mut journal = Journal::new(arguments.json);
    loop {
        bell.mark_unchanged();
        journal.print_news(&relay);
        tokio::select! {
            rung = bell.changed() => if rung.is_err() { break },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    relay.shutdown().await;
    journal.print_news(&relay);
    ExitCode::from(u8::from(arguments.strict && !relay.violations().is_empty()))
}

/// What to do next, in words.
fn introduction(ready: &Ready, file: Option<&std::path::Path>) -> String {
    let Ready { ws_url, http_url, .. } = ready;
    let access = match file {
        Some(path) => format!("--ready-file {}", path.display()),
        None => format!("--relay {ws_url} --operator-key={}", ready.operator_api_key),
    };
    let tenant = match (file, ready.tenant_id.as_str()) {
        (Some(_), _) | (None, "tenant-local") => String::new(),
        (None, tenant) => format!(" --tenant {tenant}"),
    };
    format!(
        "relay      {ws_url}/v1/endpoint/connect\n\
         enrollment  {http_url}\n\
         tenant     {}\n\
         key        {} ({})\n\
         \n\
         Enroll an endpoint (the token is good once, `dev-relay token` gives more):\n  \
         brainstorm-agent enroll --relay {http_url} --token={} --signing-key-id {} --tenant-key {}\n\
         Let it serve:\n  \
         brainstorm-agent run --relay {ws_url}\n\
         Run a tool on it:\n  \
         dev-relay dispatch {access}{tenant} --endpoint {} echo -p message=hello\n",
        ready.tenant_id,
        ready.tenant_public_key_hex,
        ready.signing_key_id,
        ready.bootstrap_token,
        ready.signing_key_id,
        ready.tenant_public_key_hex,
        ready.endpoint_id,
    )
}
