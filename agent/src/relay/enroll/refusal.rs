//! Why a relay does not enroll an endpoint.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;

use crate::relay::connect::ConnectError;
use protocol::shape::start_of;

/// Why there is no identity. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// There was no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The token cannot be one.
    #[error(
        "the token is empty, too long or has white space in it; give it as the relay's operator did"
    )]
    NotAToken,
    /// It took too long.
    #[error(
        "the relay did not answer within {} s; try again, with a fresh token if it says that this \
         one was used", limit.as_secs_f32()
    )]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// The connection broke, or what answered does not speak HTTP.
    #[error(
        "the relay's answer cannot be read ({detail}); check that its URL is the enrollment one"
    )]
    Broken {
        /// How.
        detail: String,
    },
    /// 404 `TOKEN_NOT_FOUND`
    #[error(
        "the relay does not know this token; check that it was copied whole and is this relay's"
    )]
    UnknownToken,
    /// 409 `TOKEN_ALREADY_CONSUMED`
    #[error("this token was used before; every enrollment needs a fresh one")]
    UsedToken,
    /// 409 or 410 `TOKEN_EXPIRED`
    #[error("this token is older than a day; ask for a fresh one")]
    ExpiredToken,
    /// 401 `AUTH_INVALID_PROOF`
    #[error(
        "the relay saw no token; something between, such as a proxy, takes the Authorization \
         header away"
    )]
    NoToken,
    /// 400 `INVALID_PUBLIC_KEY`
    #[error(
        "the relay does not take this agent's public key; it may need another version of the agent"
    )]
    PublicKeyRefused,
    /// 400 `INVALID_JSON`
    #[error(
        "the relay could not read the request; something between changes it, or the relay needs \
         another version of the agent"
    )]
    RequestRefused,
    /// 500 and what else comes from within a relay.
    #[error("the relay failed with status {status} ({message:?}); try again later")]
    RelayFault {
        /// The HTTP status of the answer.
        status: StatusCode,
        /// The message in the answer.
        message: String,
    },
    /// 429
    #[error("the relay takes no more requests for now; try again later")]
    TooMany,
    /// A status that sends elsewhere.
    #[error(
        "status {status} sends to another place, which is not followed; give the relay's own URL"
    )]
    Redirected {
        /// The status.
        status: StatusCode,
    },
    /// Any other answer.
    #[error(
        "status {status} ({code:?}) is not a relay's answer to an enrollment; check host, port and \
         path of the URL: relays often enroll on another port than sessions"
    )]
    NotARelay {
        /// The status.
        status: StatusCode,
        /// The code in its body.
        code: String,
    },
    /// Success, without what it must hold.
    #[error(
        "the relay enrolled this endpoint but its answer cannot be used ({detail}); have it made \
         sound and enroll with a fresh token"
    )]
    Unusable {
        /// What is wrong with it.
        detail: String,
    },
}

impl From<hyper::Error> for EnrollError {
    fn from(error: hyper::Error) -> Self {
        Self::Broken { detail: error.to_string() }
    }
}

/// What an answer other than success means.
pub fn read(status: StatusCode, body: &[u8]) -> EnrollError {
    #[derive(Default, Deserialize)]
    struct RefusalBody {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }

    let RefusalBody { code, message } = serde_json::from_slice(body).unwrap_or_default();
    match (status.as_u16(), code.as_str()) {
        (409 | 410, "TOKEN_EXPIRED") | (410, _) => EnrollError::ExpiredToken,
        (409, _) => EnrollError::UsedToken,
        (404, "TOKEN_NOT_FOUND") => EnrollError::UnknownToken,
        (401, "AUTH_INVALID_PROOF") => EnrollError::NoToken,
        (400, "INVALID_PUBLIC_KEY") => EnrollError::PublicKeyRefused,
        (400, "INVALID_JSON") => EnrollError::RequestRefused,
        (429, _) => EnrollError::TooMany,
        (300..=399, _) => EnrollError::Redirected { status },
        (500..=599, _) => {
            let said = if message.is_empty() { &code } else { &message };
            EnrollError::RelayFault { status, message: start_of(said) }
        }
        _ => EnrollError::NotARelay { status, code: start_of(&code) },
    }
}
