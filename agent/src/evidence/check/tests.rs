use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::evidence::ResetDetails;
use crate::store::HashedColumns;
use protocol::code::ErrorCode;
use protocol::message::{ResultHead, SandboxResetState};
use protocol::signing::sign;
use sandbox::Chunks;

const ID: &str = "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab";
const ENDPOINT: &str = "dc4a8b19-91c5-4c30-b66d-549dc96aea71";
const TENANT: &str = "6e5b2e09-42f7-474d-a196-14a731771b84";
/// A signed envelope of that command, and the key that signed it.
const ENVELOPE: &str = r#"{"command_id":"3f2b8c1e-7d4a-4e9b-9c55-0123456789ab","correlation_id":"corr-0001","expires_at":"2026-01-02T03:09:05.678Z","issued_at":"2026-01-02T03:04:05.678Z","lifecycle_state":"dispatched","nonce":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","operator":{"id":"operator@local","kind":"human","originating_human_id":"operator@local"},"params":{"message":"hello"},"session_id":"65b162bd-0578-4700-82a5-a3458aba016d","signature":"2cPyvM7m0Rhvsg2oSOde8BTSBf3KdohAWRdFtPEkHMMpygV25Fsr4mJTUIwqKE5DWKdd90Wbg+TfpG6Tg5k2Bg==","signature_algo":"ed25519-jcs-sha256-v1","signing_key_id":"6e5b2e09-42f7-474d-a196-14a731771b84/key-v1","target_endpoint_id":"dc4a8b19-91c5-4c30-b66d-549dc96aea71","tenant_id":"6e5b2e09-42f7-474d-a196-14a731771b84","tool":"echo","type":"CommandEnvelope"}"#;
const TENANT_KEY: &str = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8";

fn endpoint_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn tenant_key() -> VerifyingKey {
    VerifyingKey::from_bytes(&bytes_of_hex(TENANT_KEY).unwrap()).unwrap()
}

fn row(seq: i64, kind: &str, previous: &str, payload: &[u8], in_bundle: bool) -> BundledRow {
    let columns = HashedColumns {
        at: "2026-01-02T03:04:06.000Z".to_owned(),
        channel_of_origin: "endpoint".to_owned(),
        code: None,
        command_id: Some(ID.to_owned()),
        correlation_id: Some("corr-0001".to_owned()),
        endpoint_id: Some(ENDPOINT.to_owned()),
        kind: kind.to_owned(),
        lifecycle_state: None,
        operator_id: None,
        payload_canonical_hash: sha256_text(payload),
        previous_hash: previous.to_owned(),
        seq,
        session_id: None,
        tenant_id: Some(TENANT.to_owned()),
    };
    let hash = columns.hash();
    BundledRow { columns, hash, payload: in_bundle.then(|| STANDARD.encode(payload)) }
}

fn reset() -> SandboxResetState {
    let hash = format!("sha256:{}", "ab".repeat(32));
    serde_json::from_value(json!({
        "reset_at": "2026-01-02T03:04:06.000Z", "golden_hash": hash, "verification_passed": true,
        "verification_details": {
            "fs_hash": hash, "fs_hash_baseline": hash, "fs_hash_match": true,
            "open_fd_count": 6, "open_fd_count_baseline": 6, "vmm_api_state": "running",
            "expected_vmm_api_state": "running", "divergence_action": "none",
        },
    }))
    .unwrap()
}

/// A command that wrote text in another normal form and bytes that are no text.
fn bundle() -> Bundle {
    let mut chunks = Chunks::default();
    for chunk in [&b"\x01he\xff"[..], b"\x02err", "\x01e\u{301}".as_bytes(), b""] {
        chunks.push(chunk);
    }
    let evidence_hash = chunks.hash(ID);
    let envelope: Value = serde_json::from_str(ENVELOPE).unwrap();
    let first =
        row(4, ENVELOPE_ROW, &format!("sha256:{}", "c".repeat(64)), ENVELOPE.as_bytes(), false);
    let note = row(5, "Note", &first.hash, b"note", true);
    let head = ResultHead {
        command_id: ID.to_owned(),
        endpoint_id: ENDPOINT.to_owned(),
        session_id: "65b162bd-0578-4700-82a5-a3458aba016d".to_owned(),
        evidence_hash: evidence_hash.clone(),
        ts: Timestamp::from_millis(1_767_323_046_000),
    };
    let payload = json!({
        "exit_code": 0, "stdout": "he\u{fffd}e\u{301}", "stderr": "err",
        "chains": {"audit": {"head": note.hash, "seq": 5}, "evidence": evidence_hash},
    });
    let result = CommandResult::completed(head, payload, reset()).unwrap();
    let last = row(9, RESULT_ROW, "sha256:00", &canonical_bytes(&result).unwrap(), false);
    let image = json!({"schema_version": 1});
    Bundle {
        form: FORM.to_owned(),
        agent_version: "1".to_owned(),
        exported_at: Timestamp::from_millis(1_767_323_047_000),
        command_id: ID.to_owned(),
        endpoint_id: ENDPOINT.to_owned(),
        tenant_id: TENANT.to_owned(),
        envelope,
        chunks,
        evidence_hash,
        result: serde_json::to_value(result).unwrap(),
        reset: Some(ResetDetails { verification: Some(reset()), ..ResetDetails::default() }),
        image_hash: Some(sha256_text(&canonical_bytes(&image).unwrap())),
        image: Some(image),
        audit: vec![first, note, last],
    }
}

/// As the endpoint would sign it, whatever it says.
fn signed(bundle: Bundle) -> Vec<u8> {
    let key = endpoint_key();
    let signature = sign(&key, Domain::EvidenceBundle, &bundle.digest().unwrap());
    let public_key = hex_of_bytes(&key.verifying_key().to_bytes());
    let signature = hex_of_bytes(&signature);
    canonical_bytes(&SignedBundle { bundle, public_key, signature }).unwrap()
}

/// The fault of a bundle that a holder of the endpoint's key has changed.
fn fault(change: impl FnOnce(&mut Bundle)) -> String {
    let mut bundle = bundle();
    change(&mut bundle);
    let key = tenant_key();
    verify(&signed(bundle), Trust { tenant: Some(&key), ..Trust::default() })
        .unwrap_err()
        .to_string()
}

#[test]
fn a_bundle_that_is_right_says_what_was_checked() {
    let bytes = signed(bundle());
    let report = verify(&bytes, Trust::default()).unwrap();
    assert_eq!((report.tool.as_str(), report.chunks, report.audit_rows), ("echo", 4, 3));
    assert_eq!(report.audit_anchor.unwrap().seq, 5);
    assert!(!report.endpoint_key_checked && !report.envelope_signature_checked);

    let (endpoint, tenant) = (endpoint_key().verifying_key(), tenant_key());
    let trust = Trust { endpoint: Some(&endpoint), tenant: Some(&tenant) };
    let report = verify(&bytes, trust).unwrap();
    assert!(report.endpoint_key_checked && report.envelope_signature_checked);

    let other = Trust { endpoint: Some(&tenant), tenant: None };
    assert!(matches!(verify(&bytes, other), Err(BundleFault::OtherKey { .. })));
    let other = Trust { endpoint: None, tenant: Some(&endpoint) };
    assert!(matches!(verify(&bytes, other), Err(BundleFault::Envelope(_))));
}

#[test]
fn a_failed_command_has_its_anchor_in_the_last_line() {
    let mut bundle = bundle();
    let note = bundle.audit[1].clone();
    let head = ResultHead {
        command_id: ID.to_owned(),
        endpoint_id: ENDPOINT.to_owned(),
        session_id: "65b162bd-0578-4700-82a5-a3458aba016d".to_owned(),
        evidence_hash: bundle.evidence_hash.clone(),
        ts: Timestamp::from_millis(1_767_323_046_000),
    };
    let failed = |seq: u64, hash: &str| {
        let chains = format!(
            r#"chains: {{"audit":{{"head":"{hash}","seq":{seq}}},"evidence":"sha256:00"}}"#
        );
        let message = format!("tool exited with 1\n{chains}");
        CommandResult::failed(head.clone(), ErrorCode::SandboxToolError, message, Some(reset()))
    };
    let mut with = |result: CommandResult| {
        bundle.audit.truncate(2);
        let payload = canonical_bytes(&result).unwrap();
        bundle.audit.push(row(9, RESULT_ROW, "sha256:00", &payload, false));
        bundle.result = serde_json::to_value(result).unwrap();
        verify(&signed(bundle.clone()), Trust::default())
    };
    let anchor = with(failed(5, &note.hash)).unwrap().audit_anchor.unwrap();
    assert_eq!((anchor.seq, anchor.hash), (5, note.hash.clone()));
    let other = with(failed(5, "sha256:00")).unwrap_err();
    assert!(matches!(other, BundleFault::Row { seq: 5, .. }), "{other}");
    assert!(matches!(with(failed(9, &note.hash)), Err(BundleFault::Row { seq: 9, .. })));
    assert!(matches!(with(failed(8, &note.hash)), Err(BundleFault::Row { seq: 9, .. })));
}

#[test]
fn what_is_wrong_inside_is_named() {
    let cases: Vec<(String, &str)> = vec![
        (fault(|b| b.form = "other".into()), "form: "),
        (fault(|b| b.envelope["tool"] = "sh".into()), "envelope: the signature"),
        (fault(|b| b.envelope["command_id"] = ENDPOINT.into()), "envelope: it is the envelope of"),
        (fault(|b| b.tenant_id = "other".into()), "envelope: it is for another"),
        (fault(|b| b.chunks.push(b"\x01more")), "evidence: the chunks add up to"),
        (fault(|b| b.evidence_hash = "sha256:00".into()), "evidence: the chunks add up to"),
        (
            fault(|b| {
                b.chunks.push(b"\x01more");
                b.evidence_hash = b.chunks.hash(ID);
            }),
            "evidence: the chunks are not tagged",
        ),
        (
            fault(|b| {
                b.chunks = Chunks::of_output(b"hello");
                b.evidence_hash = b.chunks.hash(ID);
            }),
            "result: its evidence_hash",
        ),
        (fault(|b| b.result["payload"]["stdout"] = "hi".into()), "result: its stdout"),
        (fault(|b| b.result["payload"]["stderr"] = "".into()), "result: its stderr"),
        (fault(|b| b.result["endpoint_id"] = ID.into()), "result: it is that of another"),
        (fault(|b| b.result["lifecycle_state"] = "failed".into()), "result: "),
        (fault(|b| b.reset = None), "reset: "),
        (fault(|b| b.image = Some(json!({}))), "image: "),
        (fault(|b| b.audit[1].columns.kind = "Other".into()), "audit row 5: it does not match"),
        (fault(|b| b.audit[1].payload = Some("AAAA".into())), "audit row 5: its payload does not"),
        (fault(|b| b.audit[1].payload = None), "audit row 5: it has no payload"),
        (
            fault(|b| b.audit[1] = row(5, "Note", "sha256:11", b"note", true)),
            "audit row 5: it does not link",
        ),
        (fault(|b| b.audit.swap(0, 1)), "audit row 4: it does not come after"),
        (
            fault(|b| {
                let first = b.audit[0].hash.clone();
                b.audit[1] = row(5, "Note", &first, b"another note", true);
            }),
            "audit row 5: it is not the row that the result anchors",
        ),
        (fault(|b| b.result["resumed"] = true.into()), "audit row 9: its payload does not"),
    ];
    for (found, expected) in cases {
        assert!(found.starts_with(expected), "{found}, not {expected}");
    }
}

#[test]
fn every_byte_counts() {
    let bytes = signed(bundle());
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        // Case of a letter, and of a hex digit.
        changed[at] ^= 0x20;
        assert!(verify(&changed, Trust::default()).is_err(), "byte {at}");
    }
}

#[test]
fn nothing_is_added_or_taken_away() {
    let bytes = signed(bundle());
    for more in [&b"\n"[..], b" ", b"\0", b"{}"] {
        let longer = [&bytes[..], more].concat();
        assert!(matches!(verify(&longer, Trust::default()), Err(BundleFault::Form(_))));
    }
    let mut value: Value = serde_json::from_slice(&bytes).unwrap();
    value["note"] = "more".into();
    let more = canonical_bytes(&value).unwrap();
    assert!(matches!(verify(&more, Trust::default()), Err(BundleFault::Form(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_change_of_a_byte_is_noticed(at in any::<prop::sample::Index>(), mask in 1_u8..) {
        static BYTES: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| signed(bundle()));
        let mut changed = BYTES.clone();
        let at = at.index(changed.len());
        changed[at] ^= mask;
        prop_assert!(verify(&changed, Trust::default()).is_err(), "byte {} ^ {}", at, mask);
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify(&bytes, Trust::default()).is_err());
    }
}
