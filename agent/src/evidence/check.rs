//! Checks a bundle with nothing but the bundle, and keys that the reader already trusts.
//!
//! In this order, and the first thing that is wrong is named: the form (canonical JSON, closed
//! schema), the endpoint's signature, the envelope, the chain of evidence, the result beside the
//! evidence, the reset, the image's manifest, the rows of the audit log: each row's own hashes, the
//! link between rows that follow each other in the log, and the head the result anchors, where the
//! row is in the bundle. Rows about other commands are not in it: that nothing between the rows was
//! changed is shown by the log itself, with `audit verify`.

mod streams;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use self::streams::check_stream;
use super::bundle::{Bundle, BundledRow, ENVELOPE_ROW, FORM, RESULT_ROW, SignedBundle};
use crate::store::AuditHead;
use protocol::message::{CommandResult, Lifecycle};
use protocol::shape::{bytes_of_hex, hex_of_bytes};
use protocol::signing::{Domain, sha256_text, verify as verify_signature};
use protocol::verify::{Checks, Keys};
use protocol::{Json, Timestamp, canonical_bytes};

/// Start of the line of a failed result that has the heads of the chains.
const CHAINS_LINE: &str = "chains: ";

/// Keys that are trusted for other reasons than the bundle.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust<'a> {
    /// The key of the endpoint.
    pub endpoint: Option<&'a VerifyingKey>,
    /// The key the tenant signs envelopes with.
    pub tenant: Option<&'a VerifyingKey>,
}

/// The first thing that is wrong with a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleFault {
    /// It is no bundle, or was written by something else.
    #[error("form: {0}")]
    Form(String),
    /// Another key signed the bundle than the one expected.
    #[error("signature: it is signed by key {found}, not by the one that is expected")]
    OtherKey {
        /// The key in the bundle.
        found: String,
    },
    /// It was changed after it was signed.
    #[error("signature: it does not fit; the bundle was changed after it was signed")]
    Signature,
    /// The command is not the one that was signed, or not this endpoint's.
    #[error("envelope: {0}")]
    Envelope(String),
    /// The chunks are not what their hash says.
    #[error("evidence: {0}")]
    Evidence(String),
    /// The result is not that of the evidence.
    #[error("result: {0}")]
    Result(String),
    /// What is said about the reset is not what the result says.
    #[error("reset: {0}")]
    Reset(String),
    /// The manifest is not the one of the image.
    #[error("image: {0}")]
    Image(String),
    /// A row of the audit log.
    #[error("audit row {seq}: {detail}")]
    Row {
        /// The row.
        seq: i64,
        /// What is wrong with it.
        detail: String,
    },
}

/// The content of a bundle that passed every check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BundleReport {
    /// The command.
    pub command_id: String,
    /// The tool that the command names.
    pub tool: String,
    /// The endpoint it ran on.
    pub endpoint_id: String,
    /// Whose endpoint that is.
    pub tenant_id: String,
    /// How it ended.
    pub lifecycle_state: Lifecycle,
    /// Whether its machine was verified after it.
    pub verification_passed: Option<bool>,
    /// Hash of the last chunk of evidence.
    pub evidence_hash: String,
    /// Number of chunks.
    pub chunks: usize,
    /// Rows of the audit log in the bundle.
    pub audit_rows: usize,
    /// The head of the audit log that the result anchors.
    pub audit_anchor: Option<AuditHead>,
    /// When it was exported, by the endpoint's clock.
    pub exported_at: Timestamp,
    /// The key that signed the bundle, in hex.
    pub signed_by: String,
    /// Whether that key was compared with an expected one. `false` when none was given.
    pub endpoint_key_checked: bool,
    /// Whether the envelope's signature was checked.
    pub envelope_signature_checked: bool,
}

/// Checks the bytes of a file.
pub fn verify(bytes: &[u8], trust: Trust<'_>) -> Result<BundleReport, BundleFault> {
    let (signed, json) = read(bytes)?;
    check_signature(&signed, &json, trust.endpoint)?;
    let SignedBundle { bundle, public_key, .. } = signed;
    check_envelope(&bundle, trust.tenant)?;
    check_chain(&bundle)?;
    let result = check_result(&bundle)?;
    check_reset(&bundle, &result)?;
    check_image(&bundle)?;
    let anchor = check_rows(&bundle, &result)?;
    let tool = bundle.envelope.get("tool").and_then(Value::as_str).unwrap_or_default();
    Ok(BundleReport {
        tool: tool.to_owned(),
        lifecycle_state: result.lifecycle_state(),
        verification_passed: result.sandbox_reset_state().map(|reset| reset.verification_passed),
        chunks: bundle.chunks.sizes().len(),
        audit_rows: bundle.audit.len(),
        audit_anchor: anchor,
        command_id: bundle.command_id,
        endpoint_id: bundle.endpoint_id,
        tenant_id: bundle.tenant_id,
        evidence_hash: bundle.evidence_hash,
        exported_at: bundle.exported_at,
        signed_by: public_key,
        endpoint_key_checked: trust.endpoint.is_some(),
        envelope_signature_checked: trust.tenant.is_some(),
    })
}

fn read(bytes: &[u8]) -> Result<(SignedBundle, Json), BundleFault> {
    let form = |detail: String| BundleFault::Form(detail);
    let text = std::str::from_utf8(bytes).map_err(|error| form(error.to_string()))?;
    let json = Json::parse(text).map_err(|error| form(error.to_string()))?;
    if json.canonical() != bytes {
        return Err(form("the file is not canonical JSON".to_owned()));
    }
    let signed: SignedBundle =
        serde_json::from_slice(bytes).map_err(|error| form(error.to_string()))?;
    if signed.bundle.form != FORM {
        return Err(form(format!("it is not of the form {FORM}")));
    }
    Ok((signed, json))
}

fn check_signature(
    signed: &SignedBundle,
    json: &Json,
    expected: Option<&VerifyingKey>,
) -> Result<(), BundleFault> {
    let lower = |text: &str, bytes: &[u8]| hex_of_bytes(bytes) == text;
    let key: [u8; 32] = bytes_of_hex(&signed.public_key)
        .filter(|key| lower(&signed.public_key, key))
        .ok_or_else(|| BundleFault::Form("public_key is not 64 hex digits".to_owned()))?;
    let signature: [u8; 64] = bytes_of_hex(&signed.signature)
        .filter(|signature| lower(&signed.signature, signature))
        .ok_or_else(|| BundleFault::Form("signature is not 128 hex digits".to_owned()))?;
    if expected.is_some_and(|expected| expected.to_bytes() != key) {
        return Err(BundleFault::OtherKey { found: signed.public_key.clone() });
    }
    let key = VerifyingKey::from_bytes(&key).map_err(|_| BundleFault::Signature)?;
    let canonical = json.get("bundle").map(Json::canonical).unwrap_or_default();
    let digest: [u8; 32] = Sha256::digest(canonical).into();
    if verify_signature(&key, Domain::EvidenceBundle, &digest, &signature) {
        Ok(())
    } else {
        Err(BundleFault::Signature)
    }
}

fn check_envelope(bundle: &Bundle, tenant: Option<&VerifyingKey>) -> Result<(), BundleFault> {
    let wrong = |detail: &str| Err(BundleFault::Envelope(detail.to_owned()));
    let is = |field: &str, value: &str| {
        bundle.envelope.get(field).and_then(Value::as_str) == Some(value)
    };
    if !is("command_id", &bundle.command_id) {
        return wrong("it is the envelope of another command");
    }
    if !is("target_endpoint_id", &bundle.endpoint_id) || !is("tenant_id", &bundle.tenant_id) {
        return wrong("it is for another endpoint or tenant");
    }
    let Some(key) = tenant else { return Ok(()) };
    let checks = Checks {
        keys: Keys::One(key),
        endpoint_id: Some(&bundle.endpoint_id),
        tenant_id: Some(&bundle.tenant_id),
        session_id: None,
        now: None,
    };
    match checks.run(&bundle.envelope.to_string()) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(BundleFault::Envelope(refusal.message)),
    }
}

fn check_chain(bundle: &Bundle) -> Result<(), BundleFault> {
    let computed = bundle.chunks.hash(&bundle.command_id);
    if computed != bundle.evidence_hash {
        let claimed = &bundle.evidence_hash;
        let detail = format!("the chunks add up to {computed}, the bundle says {claimed}");
        return Err(BundleFault::Evidence(detail));
    }
    if bundle.chunks.streams().is_none() {
        let detail = "the chunks are not tagged, or do not end with one empty chunk";
        return Err(BundleFault::Evidence(detail.to_owned()));
    }
    Ok(())
}

fn check_result(bundle: &Bundle) -> Result<CommandResult, BundleFault> {
    let wrong = |detail: String| BundleFault::Result(detail);
    let result: CommandResult =
        serde_json::from_value(bundle.result.clone()).map_err(|error| wrong(error.to_string()))?;
    if result.command_id() != bundle.command_id
        || bundle.result.get("endpoint_id").and_then(Value::as_str) != Some(&bundle.endpoint_id)
    {
        return Err(wrong("it is that of another command or endpoint".to_owned()));
    }
    if result.evidence_hash() != bundle.evidence_hash {
        let claimed = result.evidence_hash();
        return Err(wrong(format!("its evidence_hash is {claimed}, not that of the chunks")));
    }
    if let Some(payload) = result.payload().and_then(Value::as_object) {
        let (stdout, stderr) = bundle.chunks.streams().unwrap_or_default();
        for (stream, written) in [("stdout", stdout), ("stderr", stderr)] {
            check_stream(payload, stream, &written).map_err(wrong)?;
        }
    }
    Ok(result)
}

fn check_reset(bundle: &Bundle, result: &CommandResult) -> Result<(), BundleFault> {
    let told = result.sandbox_reset_state();
    let kept = bundle.reset.as_ref().and_then(|reset| reset.verification.as_ref());
    if told == kept {
        return Ok(());
    }
    Err(BundleFault::Reset("what is kept differs from what the result says".to_owned()))
}

fn check_image(bundle: &Bundle) -> Result<(), BundleFault> {
    let Some(image) = &bundle.image else { return Ok(()) };
    let hash = canonical_bytes(image).map(|text| sha256_text(&text)).ok();
    if hash.is_some() && hash == bundle.image_hash {
        return Ok(());
    }
    Err(BundleFault::Image("the manifest does not have the hash that was noted".to_owned()))
}

/// Gives the head of the log that the result anchors.
fn check_rows(bundle: &Bundle, result: &CommandResult) -> Result<Option<AuditHead>, BundleFault> {
    let anchor = anchor_of(result);
    let mut before: Option<&BundledRow> = None;
    for row in &bundle.audit {
        let fault = |detail: &str| {
            Err(BundleFault::Row { seq: row.columns.seq, detail: detail.to_owned() })
        };
        if row.columns.command_id.as_ref() != Some(&bundle.command_id) {
            return fault("it is about another command");
        }
        if row.columns.hash() != row.hash {
            return fault("it does not match its hash: it was altered");
        }
        let Some(payload) = payload_of(row, bundle) else {
            return fault("it has no payload that could be read");
        };
        if sha256_text(&payload) != row.columns.payload_canonical_hash {
            return fault("its payload does not match the payload's hash");
        }
        if let Some(before) = before {
            if row.columns.seq <= before.columns.seq {
                return fault("it does not come after the row before it");
            }
            let adjacent = row.columns.seq == before.columns.seq.saturating_add(1);
            if adjacent && row.columns.previous_hash != before.hash {
                return fault("it does not link to the row before it");
            }
        }
        if let Some(anchor) = &anchor {
            let seq = row.columns.seq.unsigned_abs();
            if seq == anchor.seq && row.hash != anchor.hash {
                return fault("it is not the row that the result anchors");
            }
            if row.columns.kind == RESULT_ROW && seq <= anchor.seq {
                return fault("the result anchors a row after its own");
            }
            let precedes = row.columns.seq.unsigned_abs() == anchor.seq.saturating_add(1);
            if precedes && row.columns.previous_hash != anchor.hash {
                return fault("it does not link to the row that the result anchors");
            }
        }
        before = Some(row);
    }
    Ok(anchor)
}

fn payload_of(row: &BundledRow, bundle: &Bundle) -> Option<Vec<u8>> {
    match (&row.payload, row.columns.kind.as_str()) {
        (Some(payload), _) => STANDARD.decode(payload).ok(),
        (None, ENVELOPE_ROW) => canonical_bytes(&bundle.envelope).ok(),
        (None, RESULT_ROW) => canonical_bytes(&bundle.result).ok(),
        (None, _) => None,
    }
}

/// The head of the audit log in a result: in its payload, or in the last line of its message.
fn anchor_of(result: &CommandResult) -> Option<AuditHead> {
    let chains = match (result.payload(), result.error()) {
        (Some(payload), _) => payload.get("chains")?.clone(),
        (None, error) => {
            let line = error?.message.lines().next_back()?;
            serde_json::from_str(line.strip_prefix(CHAINS_LINE)?).ok()?
        }
    };
    let audit = chains.get("audit")?;
    let (seq, hash) = (audit.get("seq")?.as_u64()?, audit.get("head")?.as_str()?);
    Some(AuditHead { seq, hash: hash.to_owned() })
}

#[cfg(test)]
mod tests;
