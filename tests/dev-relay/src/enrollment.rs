//! Bootstrap tokens and the endpoints enrolled with them.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use protocol::timestamp::Timestamp;
use serde::Serialize;

use crate::random;

/// A bootstrap token, in the form the administration call gives it.
#[derive(Debug, Clone, Serialize)]
pub struct BootstrapToken {
    /// 43 characters of base64url, good for one enrollment.
    #[serde(rename = "bootstrap_token")]
    pub token: String,
    /// The tenant.
    pub tenant_id: String,
    /// The identifier the endpoint will get.
    pub endpoint_id: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenProblem {
    NotFound,
    Consumed,
    Expired,
}

/// An enrolled endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Enrollment {
    pub(crate) tenant_id: String,
    /// As it was sent: relays in the field check it at the first hello only.
    public_key: String,
}

impl Enrollment {
    /// The key, when it is one.
    pub(crate) fn key(&self) -> Option<VerifyingKey> {
        let bytes: [u8; 32] = decode_base64(&self.public_key)?.try_into().ok()?;
        VerifyingKey::from_bytes(&bytes).ok()
    }
}

/// All tokens and all endpoints. Outlives a restart of the relay.
#[derive(Debug, Default)]
pub(crate) struct Enrollments {
    tokens: HashMap<String, (BootstrapToken, bool)>,
    endpoints: HashMap<String, Enrollment>,
}

impl Enrollments {
    pub(crate) fn issue(
        &mut self,
        tenant_id: &str,
        endpoint_id: Option<&str>,
        expires_at: Timestamp,
    ) -> BootstrapToken {
        let token = BootstrapToken {
            token: random::text(),
            tenant_id: tenant_id.to_owned(),
            endpoint_id: endpoint_id.map_or_else(random::uuid, str::to_owned),
            expires_at,
        };
        self.tokens.insert(token.token.clone(), (token.clone(), false));
        token
    }

    /// Uses up a token and enrolls its endpoint; an endpoint enrolled before gets the new key.
    pub(crate) fn enroll(
        &mut self,
        token: &str,
        public_key: &str,
        now: Timestamp,
    ) -> Result<BootstrapToken, TokenProblem> {
        let (token, consumed) = self.tokens.get_mut(token).ok_or(TokenProblem::NotFound)?;
        if *consumed {
            return Err(TokenProblem::Consumed);
        }
        if now > token.expires_at {
            return Err(TokenProblem::Expired);
        }
        *consumed = true;
        let token = token.clone();
        self.insert(&token.endpoint_id, &token.tenant_id, public_key);
        Ok(token)
    }

    /// Enrolls an endpoint without a token. An endpoint known before keeps its tenant.
    pub(crate) fn insert(&mut self, endpoint_id: &str, tenant_id: &str, public_key: &str) {
        let public_key = public_key.to_owned();
        if let Some(endpoint) = self.endpoints.get_mut(endpoint_id) {
            endpoint.public_key = public_key;
        } else {
            let tenant_id = tenant_id.to_owned();
            self.endpoints.insert(endpoint_id.to_owned(), Enrollment { tenant_id, public_key });
        }
    }

    /// Forgets an endpoint's key: its next hello is refused.
    pub(crate) fn revoke(&mut self, endpoint_id: &str) {
        self.endpoints.remove(endpoint_id);
    }

    pub(crate) fn get(&self, endpoint_id: &str) -> Option<&Enrollment> {
        self.endpoints.get(endpoint_id)
    }
}

/// Standard base64 the way relays in the field read it: padding may be missing, white space is
/// skipped, the two letters of base64url are refused.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if !compact.ends_with('=') {
        compact.extend(std::iter::repeat_n('=', (4 - compact.len() % 4) % 4));
    }
    STANDARD.decode(compact).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_323_045_678);

    #[test]
    fn a_token_is_good_once_and_for_its_time() {
        let mut enrollments = Enrollments::default();
        let token = enrollments.issue("tenant", Some("endpoint"), NOW);
        let later = Timestamp::from_millis(NOW.millis() + 1);
        let refused = |enrollments: &mut Enrollments, token: &str, now| {
            enrollments.enroll(token, "key", now).unwrap_err()
        };
        assert_eq!(refused(&mut enrollments, "unknown", NOW), TokenProblem::NotFound);
        assert_eq!(refused(&mut enrollments, &token.token, later), TokenProblem::Expired);
        assert_eq!(enrollments.enroll(&token.token, "key", NOW).unwrap().endpoint_id, "endpoint");
        assert_eq!(refused(&mut enrollments, &token.token, later), TokenProblem::Consumed);
        enrollments.revoke("endpoint");
        assert!(enrollments.get("endpoint").is_none());
    }

    #[test]
    fn base64_is_read_as_relays_in_the_field_read_it() {
        assert_eq!(decode_base64("AQI=").unwrap(), [1, 2]);
        assert_eq!(decode_base64("AQI").unwrap(), [1, 2]);
        assert_eq!(decode_base64(" A\nQ\tI= ").unwrap(), [1, 2]);
        assert_eq!(decode_base64("-_8="), None);
        assert_eq!(decode_base64("+/8=").unwrap(), [0xfb, 0xff]);
        assert_eq!(decode_base64("A"), None);
    }
}
