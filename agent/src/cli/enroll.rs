//! `brainstorm-agent enroll`

mod keys;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ed25519_dalek::VerifyingKey;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Exit, stdin, terminal};
use crate::config::Config;
use crate::relay::{
    BootstrapToken, Connector, ConnectorConfig, EnrollRequest, Enrolled, RelayUrl, enroll,
};
use crate::store::StateDir;
use crate::store::identity::{Identity, IdentityError, PendingIdentity, Registration};
use protocol::keyring::public_key_of_hex;

/// Longest time for the whole enrollment.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest file with a token, in bytes.
const MAX_TOKEN_FILE: usize = 4096;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The relay's enrollment URL, as https://relay.example; http:// on this host only.
    #[arg(long, value_name = "URL", env = "BSM_ENROLL_RELAY")]
    relay: String,

    /// The one-time token. Other users of this host can see it here: prefer the file or the
    /// variable.
    // Tokens are base64url, which may begin with a hyphen.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "BSM_ENROLL_TOKEN",
        hide_env_values = true,
        allow_hyphen_values = true
    )]
    token: Option<String>,

    /// File with the one-time token; `-` for standard input. Goes before the other two.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The tenant's public key, whose signature commands must have: 64 hex digits.
    #[arg(long, value_name = "HEX", value_parser = tenant_key)]
    tenant_key: Option<VerifyingKey>,

    /// What commands call that key [default: TENANT/key-v1].
    #[arg(long, value_name = "ID", requires = "tenant_key")]
    signing_key_id: Option<String>,

    /// Refuse to become another endpoint than this one.
    #[arg(long, value_name = "UUID")]
    endpoint_id: Option<String>,

    /// PEM file of certificate authorities to trust beside the system's.
    #[arg(long, value_name = "FILE", env = "BSM_CA_FILE")]
    ca_file: Option<PathBuf>,

    /// Allow http:// to other hosts: a host in between can take the token.
    #[arg(long)]
    allow_plain: bool,

    /// Enroll again, with a new key, although there is an identity; and replace a tenant key of the
    /// same id.
    #[arg(long)]
    force: bool,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn tenant_key(text: &str) -> Result<VerifyingKey, &'static str> {
    public_key_of_hex(text).ok_or("not an Ed25519 public key in 64 hex digits")
}

/// What became of it.
#[derive(Debug, Serialize)]
struct EnrolledReport {
    endpoint_id: String,
    tenant_id: String,
    registered_at: String,
    relay: String,
    identity: PathBuf,
    /// Whether the identity was there before.
    already_enrolled: bool,
    /// The tenant key that was written, by what commands call it.
    signing_key_id: Option<String>,
    /// Whether there is any key that commands could be signed with.
    has_tenant_key: bool,
}

/// Why there is no identity, and the exit code that says so.
struct EnrollFailure {
    exit: Exit,
    text: String,
}

#[expect(clippy::needless_pass_by_value, reason = "this is how `map_err` gives an error")]
impl EnrollFailure {
    fn usage(error: impl ToString) -> Self {
        Self { exit: Exit::Usage, text: error.to_string() }
    }

    fn refused(error: impl ToString) -> Self {
        Self { exit: Exit::Refused, text: error.to_string() }
    }
}

pub fn run(arguments: Arguments, config: &Config) -> ExitCode {
    let json = arguments.json;
    let report = match enroll_endpoint(arguments, &config.run.state_dir) {
        Ok(report) => report,
        Err(EnrollFailure { exit, text }) => return terminal::complain(&text, exit),
    };
    terminal::show(&report, json, || text(&report))
}

fn enroll_endpoint(
    mut arguments: Arguments,
    state_dir: &Path,
) -> Result<EnrolledReport, EnrollFailure> {
    let url =
        RelayUrl::parse(&arguments.relay, arguments.allow_plain).map_err(EnrollFailure::usage)?;
    let given = arguments.token.take().map(Zeroizing::new);
    let state = StateDir::open(state_dir).map_err(EnrollFailure::refused)?;
    let before = match Identity::load(&state.identity(), None) {
        Ok(identity) => Some(identity),
        Err(IdentityError::Missing(_)) => None,
        // With --force even a damaged one gives way.
        Err(_) if arguments.force => None,
        Err(error) => return Err(EnrollFailure::refused(error)),
    };
    let already_enrolled = before.is_some() && !arguments.force;
    let identity = match before {
        Some(identity) if !arguments.force => {
            check_same(&identity, &url, arguments.endpoint_id.as_deref())?;
            identity
        }
        _ => {
            let token = token(given, arguments.token_file.as_deref())?;
            become_endpoint(&arguments, url, token, &state)?
        }
    };
    let mut signing_key_id = None;
    if let Some(key) = arguments.tenant_key {
        let id =
            arguments.signing_key_id.unwrap_or_else(|| format!("{}/key-v1", identity.tenant_id));
        keys::add(&state, &id, key, arguments.force).map_err(|error| {
            EnrollFailure::refused(format!(
                "this endpoint is enrolled as {}, but the tenant key is not written: {error}",
                identity.endpoint_id
            ))
        })?;
        signing_key_id = Some(id);
    }
    Ok(EnrolledReport {
        already_enrolled,
        has_tenant_key: keys::any(&state),
        identity: state.identity(),
        signing_key_id,
        endpoint_id: identity.endpoint_id.clone(),
        tenant_id: identity.tenant_id.clone(),
        registered_at: identity.registered_at.clone(),
        relay: identity.relay.clone(),
    })
}

/// Whether the identity that is there is the one that is wanted.
fn check_same(
    identity: &Identity,
    url: &RelayUrl,
    endpoint_id: Option<&str>,
) -> Result<(), EnrollFailure> {
    let again = "--force enrolls anew, with a fresh token";
    if identity.relay != url.to_string() {
        let Identity { endpoint_id, relay, .. } = identity;
        return Err(EnrollFailure::refused(format!(
            "this host is enrolled already, as endpoint {endpoint_id} at {relay}; {again}"
        )));
    }
    match endpoint_id {
        Some(wanted) if wanted != identity.endpoint_id => Err(EnrollFailure::refused(format!(
            "this host is enrolled already, as endpoint {}, not {wanted}; {again}",
            identity.endpoint_id
        ))),
        _ => Ok(()),
    }
}

fn token(
    given: Option<Zeroizing<String>>,
    file: Option<&std::path::Path>,
) -> Result<BootstrapToken, EnrollFailure> {
    let text = match (file, given) {
        (Some(file), _) if file.as_os_str() == "-" => {
            Zeroizing::new(stdin::text(MAX_TOKEN_FILE).map_err(EnrollFailure::usage)?)
        }
        (Some(file), _) => {
            let mut text = Zeroizing::new(String::new());
            File::open(file)
                .and_then(|file| file.take(MAX_TOKEN_FILE as u64).read_to_string(&mut text))
                .map_err(|error| {
                    EnrollFailure::usage(format!(
                        "cannot read the token from {}: {error}",
                        file.display()
                    ))
                })?;
            text
        }
        (None, Some(token)) => token,
        (None, None) => {
            return Err(EnrollFailure::usage(
                "enrolling takes the one-time token that the relay's operator gives out: set \
                 BSM_ENROLL_TOKEN, or use --token-file or --token",
            ));
        }
    };
    BootstrapToken::parse(&text).map_err(EnrollFailure::usage)
}

/// Enrolls with a key that is on disk before the relay receives it.
fn become_endpoint(
    arguments: &Arguments,
    url: RelayUrl,
    token: BootstrapToken,
    state: &StateDir,
) -> Result<Identity, EnrollFailure> {
    let config = ConnectorConfig::from_environment(arguments.ca_file.clone())
        .map_err(EnrollFailure::usage)?;
    let connector = Connector::new(config).map_err(EnrollFailure::usage)?;
    let pending = PendingIdentity::prepare(&state.identity(), arguments.force)
        .map_err(EnrollFailure::refused)?;
    let relay = url.to_string();
    let request = EnrollRequest {
        url,
        token,
        public_key: pending.public_key(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let spinner = terminal::spinner("enrolling");
    let enrolled = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(EnrollFailure::refused)?
        .block_on(enroll(&connector, &request, LIMIT));
    spinner.finish_and_clear();
    let Enrolled { endpoint_id, tenant_id, registered_at } =
        enrolled.map_err(EnrollFailure::refused)?;
    if let Some(wanted) = arguments.endpoint_id.as_ref().filter(|wanted| **wanted != endpoint_id) {
        return Err(EnrollFailure::refused(format!(
            "the token was for endpoint {endpoint_id}, not {wanted}, and is spent now; nothing was \
             changed here: ask for a token for {wanted}"
        )));
    }
    let registration = Registration { endpoint_id, tenant_id, registered_at, relay };
    pending.enrolled(registration).map_err(EnrollFailure::refused)
}

fn text(report: &EnrolledReport) -> String {
    let EnrolledReport { endpoint_id, tenant_id, relay, .. } = report;
    let how = if report.already_enrolled { "Enrolled already" } else { "Enrolled" };
    let mut text = format!(
        "{how} as endpoint {endpoint_id} of tenant {tenant_id} at {relay}.\n\
         The identity is in {}; keep it private.\n",
        report.identity.display()
    );
    // Writing to a string cannot fail.
    let _ = match &report.signing_key_id {
        Some(id) => writeln!(text, "Commands must be signed with {id}."),
        None if report.has_tenant_key => Ok(()),
        None => writeln!(
            text,
            "No tenant key is known, so no command will be accepted: run this again with \
             --tenant-key."
        ),
    };
    text
}
