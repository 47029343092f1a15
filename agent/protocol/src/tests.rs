//! Every vector of `vectors.json`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;
use signing::{Domain, connection_proof_bytes, digest, sha256_text, sign};

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is not text in {value}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn key(vector: &Value) -> SigningKey {
    SigningKey::from_bytes(&unhex(text(vector, "seed_hex")).try_into().unwrap())
}

/// Signs and verifies, and compares every value on the way.
fn check_signature(vector: &Value, key: &SigningKey, domain: Domain, canonical: &[u8]) {
    assert_eq!(String::from_utf8_lossy(canonical), text(vector, "canonical"));
    assert_eq!(hex(&digest(domain, canonical)), text(vector, "sha256_hex"));
    let signature = sign(key, domain, canonical);
    assert_eq!(STANDARD.encode(signature), text(vector, "signature_b64"));
    assert!(signing::verify(&key.verifying_key(), domain, canonical, &signature));
    let other = if domain == Domain::CommandEnvelope {
        Domain::BootstrapToken
    } else {
        Domain::CommandEnvelope
    };
    assert!(
        !signing::verify(&key.verifying_key(), other, canonical, &signature),
        "domains are kept apart"
    );
}

#[test]
fn domain_prefixes() {
    let vectors = vectors();
    for (name, domain) in [
        ("COMMAND_ENVELOPE", Domain::CommandEnvelope),
        ("CONNECTION_PROOF", Domain::ConnectionProof),
        ("BOOTSTRAP_TOKEN", Domain::BootstrapToken),
        ("OPERATOR_HMAC", Domain::OperatorHmac),
        ("EVIDENCE_CHUNK", Domain::EvidenceChunk),
    ] {
        let vector = &vectors["domain_prefixes"][name];
        assert_eq!(hex(domain.prefix()), text(vector, "hex"));
        assert_eq!(domain.prefix().len() as u64, vector["length"]);
    }
}

/// Vectors marked `refused` with a canonical form beside are those where a lenient peer reads a
/// meaning into an ambiguous text: a key given twice, and surrogates without their other half. This
/// agent reads none.
#[test]
fn canonicalisation() {
    let vectors = vectors();
    let list = vectors["canonicalisation"].as_array().unwrap();
    assert_eq!(list.len(), 39);
    let mut stricter = Vec::new();
    for vector in list {
        let name = text(vector, "name");
        let result = Json::parse(text(vector, "input_json"));
        if vector["refused"] == true {
            assert!(result.is_err(), "{name}: {result:?}");
            if vector.get("canonical").is_some() {
                stricter.push(name);
            }
            continue;
        }
        let json = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        let canonical = json.canonical();
        assert_eq!(hex(&canonical), text(vector, "canonical_hex"), "{name}");
        assert_eq!(hex(&Sha256::digest(&canonical)), text(vector, "sha256_hex"), "{name}");
        assert_eq!(Json::from_value(&json.to_value()), Ok(json), "{name}");
    }
    assert_eq!(stricter, ["duplicate key", "lone surrogate value", "lone surrogate key"]);
}

#[test]
fn command_envelope() {
    let vectors = vectors();
    let group = &vectors["command_envelope"];
    let key = key(group);
    assert_eq!(hex(key.verifying_key().as_bytes()), text(group, "public_key_hex"));
    let list = group["vectors"].as_array().unwrap();
    assert_eq!(list.len(), 1);
    for vector in list {
        let Json::Object(mut entries) = Json::parse(text(vector, "wire_json")).unwrap() else {
            panic!("not an object");
        };
        let signature = entries.iter_mut().find(|(key, _)| key == "signature").unwrap();
        signature.1 = Json::String(String::new());
        let canonical = Json::Object(entries).canonical();
        assert_eq!(canonical.len() as u64, vector["canonical_length"]);
        assert_eq!(hex(&canonical), text(vector, "canonical_hex"));
        check_signature(vector, &key, Domain::CommandEnvelope, &canonical);
    }
}

#[test]
fn connection_proof() {
    let vectors = vectors();
    let vector = &vectors["connection_proof"];
    let [endpoint, tenant, ts] =
        ["endpoint_id", "tenant_id", "ts"].map(|field| text(&vector["payload"], field));
    let canonical = connection_proof_bytes(endpoint, tenant, ts).unwrap();
    let input = [Domain::ConnectionProof.prefix(), &canonical].concat();
    assert_eq!(hex(&input), text(vector, "signing_input_hex"));
    check_signature(vector, &key(vector), Domain::ConnectionProof, &canonical);

    let hello = message::EndpointHello {
        endpoint_id: endpoint.into(),
        tenant_id: tenant.into(),
        agent_version: "v0.1.0".into(),
        agent_protocol_version: PROTOCOL_VERSION.into(),
        connection_proof: message::ConnectionProof {
            ts: ts.into(),
            signature: text(vector, "signature_b64").into(),
        },
    };
    assert_eq!(message::Frame::to_text(&hello), text(vector, "hello_frame"));
    let public =
        VerifyingKey::from_bytes(&unhex(text(vector, "public_key_hex")).try_into().unwrap());
    assert_eq!(STANDARD.encode(public.unwrap()), text(vector, "enroll_request_public_key"));
}

#[test]
fn bootstrap_token() {
    let vectors = vectors();
    let vector = &vectors["bootstrap_token"];
    let canonical = canonical_bytes(&vector["payload"]).unwrap();
    check_signature(vector, &key(vector), Domain::BootstrapToken, &canonical);
}

#[test]
fn operator_hmac() {
    let vectors = vectors();
    let group = &vectors["operator_hmac"];
    let hkdf = &group["hkdf"];
    let salt = text(hkdf, "salt_utf8").as_bytes();
    let derivation = hkdf::Hkdf::<Sha256>::new(Some(salt), text(hkdf, "ikm_utf8").as_bytes());
    let mut key = [0; 32];
    derivation.expand(text(hkdf, "info_utf8").as_bytes(), &mut key).unwrap();
    assert_eq!(hex(&key), text(hkdf, "key_hex"));
    for name in ["operator_hello", "dispatch_request"] {
        let vector = &group[name];
        let frame: Value = serde_json::from_str(text(vector, "canonical")).unwrap();
        let canonical = canonical_bytes(&frame).unwrap();
        assert_eq!(String::from_utf8_lossy(&canonical), text(vector, "canonical"));
        let mac = Hmac::<Sha256>::new_from_slice(&key)
            .unwrap()
            .chain_update(Domain::OperatorHmac.prefix())
            .chain_update(&canonical)
            .finalize()
            .into_bytes();
        assert_eq!(hex(&mac), text(vector, "hmac_hex"));
        assert_eq!(STANDARD.encode(mac), text(vector, "hmac_b64"));
    }
}

#[test]
fn preview_hash() {
    let vectors = vectors();
    let group = &vectors["operator_hmac"];
    let mut request: Value =
        serde_json::from_str(text(&group["dispatch_request"], "canonical")).unwrap();
    request["operator"].as_object_mut().unwrap().remove("auth_proof");
    let mut bytes = canonical_bytes(&request).unwrap();
    bytes.push(b'|');
    bytes.extend_from_slice(text(&group["preview_hash"], "preview_summary").as_bytes());
    assert_eq!(sha256_text(&bytes), text(&group["preview_hash"], "preview_hash"));
}

#[test]
fn evidence_chain() {
    let vectors = vectors();
    let group = &vectors["evidence_chain"];
    let command = text(group, "command_id");
    for (chain, end) in [
        ("three_chunks", "three_chunks_evidence_hash"),
        ("single_empty_chunk", "single_empty_chunk_evidence_hash"),
    ] {
        let mut previous = [0; 32];
        for vector in group[chain].as_array().unwrap() {
            let data = STANDARD.decode(text(vector, "chunk_data_b64")).unwrap();
            let mut link = command.as_bytes().to_vec();
            link.extend_from_slice(&vector["seq"].as_u64().unwrap().to_be_bytes());
            link.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
            link.extend_from_slice(&data);
            link.extend_from_slice(&previous);
            let preimage = [Domain::EvidenceChunk.prefix(), &link].concat();
            assert_eq!(hex(&preimage), text(vector, "preimage_hex"));
            previous = digest(Domain::EvidenceChunk, &link);
            assert_eq!(hex(&previous), text(vector, "chunk_hash_hex"));
        }
        assert_eq!(format!("sha256:{}", hex(&previous)), text(group, end));
    }
}
