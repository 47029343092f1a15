//! Every other file of an agent. First byte: which one; the rest is its content.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use brainstorm_agent::baselines::{Authenticator, BaselineRecord as Baselines, BaselineStore};
use brainstorm_agent::commands::policy::{Policy, Request};
use brainstorm_agent::degraded::IncidentRecord as Latch;
use brainstorm_agent::degraded::explain::explain;
use brainstorm_agent::evidence::check::{BundleFault, Trust, verify};
use brainstorm_agent::evidence::{EvidenceRecord as Evidence, bundle};
use brainstorm_agent::keyholder::KeyHolderError;
use brainstorm_agent::store::identity::Identity;
use ed25519_dalek::SigningKey;
use guest::manifest::ImageManifest;
use protocol::keyring::KeyRing;
use protocol::message::Track;
use protocol::shape::hex_of_bytes;
use protocol::signing::{Domain, sign};
use protocol::{Json, Operator, OperatorKind, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::script::Script;

const NOW: Timestamp = Timestamp::from_millis(1_767_323_045_678);

pub fn run(input: &[u8]) {
    let Some((kind, content)) = input.split_first() else { return };
    match kind {
        b'l' => latch(content),
        b'b' => baselines(content),
        b'i' => identity(content),
        b'k' => keys(content),
        b'p' => policy(content),
        b'e' => evidence(content),
        b's' => signed_bundle(content),
        b'm' => {
            let _ = std::str::from_utf8(content).map(ImageManifest::parse);
        }
        _ => {}
    }
}

/// A directory in memory, for as long as this process lives.
pub fn place() -> &'static Path {
    static PLACE: OnceLock<TempDir> = OnceLock::new();
    let directory = PLACE.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        made.unwrap()
    });
    directory.path()
}

/// Writes a file that only this user may touch.
pub fn write_private(path: &Path, content: &[u8]) {
    let _ = fs::remove_file(path);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(content).unwrap();
}

/// Whatever the file holds: while it is there, no command runs.
fn latch(content: &[u8]) {
    write_private(&Latch::path(place()), content);
    let found = Latch::load(place()).expect("a latch that cannot be read is a latch");
    let again: Latch = serde_json::from_slice(&found.to_bytes()).unwrap();
    assert_eq!(again, found);
    let _ = found.summary();
    let _ = explain(place()).in_words();
    fs::remove_file(Latch::path(place())).unwrap();
}

/// Agrees with everything, so that what is behind the MAC is reached too.
struct Gullible;

const MAC: [u8; 32] = *b"a MAC that nobody has to compute";

impl Authenticator for Gullible {
    fn mac(&self, _: [u8; 32]) -> Result<[u8; 32], KeyHolderError> {
        Ok(MAC)
    }
}

/// The file as it was written, changed at places the input names.
fn baselines(content: &[u8]) {
    static ORIGINAL: OnceLock<Vec<u8>> = OnceLock::new();
    let store = BaselineStore::new(place(), &Gullible);
    let original = ORIGINAL.get_or_init(|| {
        let _ = fs::remove_file(store.path());
        let record: Baselines = serde_json::from_value(json!({
            "version": 1, "measured_at": NOW, "snapshot": "/var/lib/x/golden.bsm",
            "vmm_version": "0.1.0", "kernel_sha256": hash(1), "rootfs_sha256": hash(2),
            "cmdline": "quiet", "memory_mib": 128, "vcpus": 1, "cpu_template": hash(3),
            "disk_bytes": 8 << 20, "golden_hash": hash(4), "fs_hash": hash(5),
            "open_fd_count": 7, "expected_vmm_api_state": "running",
        }))
        .unwrap();
        store.mint(record.clone()).unwrap();
        store.confirm().unwrap();
        store.mint(record).unwrap();
        fs::read(store.path()).unwrap()
    });
    let mut script = Script::new(content);
    let mut bytes = original.clone();
    while !script.is_over() {
        let at = usize::from(script.half()) % bytes.len();
        let count = script.below(8) + 1;
        for (to, from) in bytes.iter_mut().skip(at).zip(script.bytes(count)) {
            *to = *from;
        }
    }
    let untouched = bytes == *original;
    write_private(store.path(), &bytes);
    match store.load() {
        Ok(installed) => {
            let installed = installed.expect("there is a file");
            installed.active().expect("one slot counts").record.validate().unwrap();
        }
        Err(error) => assert!(!untouched, "{error}"),
    }
}

fn hash(byte: u8) -> String {
    format!("sha256:{}", hex_of_bytes(&[byte; 32]))
}

fn identity(content: &[u8]) {
    let path = place().join("identity.json");
    write_private(&path, content);
    if let Ok(identity) = Identity::load(&path, None) {
        let public = identity.public_key();
        assert_eq!(identity.into_key().verifying_key().to_bytes(), public);
    }
}

fn keys(content: &[u8]) {
    let Ok(text) = std::str::from_utf8(content) else { return };
    let Ok(ring) = KeyRing::from_toml(text) else { return };
    assert_eq!(KeyRing::from_toml(&ring.to_toml()).unwrap(), ring);
    for key in ring.keys() {
        if let Ok(found) = ring.find(&key.id, NOW) {
            assert!(!ring.revoked().any(|id| id == key.id), "{found:?} is revoked");
        }
    }
}

fn policy(content: &[u8]) {
    let Ok(text) = std::str::from_utf8(content) else { return };
    let Ok(policy) = Policy::parse(text) else { return };
    for (kind, track) in
        [(OperatorKind::Human, Track::DataProvider), (OperatorKind::Agent, Track::Mutator)]
    {
        let originating_human_id = Some("alice@example".to_owned());
        let operator = Operator { kind, id: "bob".into(), originating_human_id };
        let request = Request { tool: "file_read", track, operator: &operator, now: NOW };
        let decided = policy.decide(&request);
        assert_eq!(policy.decide(&request), decided);
    }
}

fn evidence(content: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Evidence>(content) else { return };
    let _ = record.chunks.hash(&record.command_id);
    let bytes: usize = record.chunks.iter().map(<[u8]>::len).sum();
    assert_eq!(bytes, record.chunks.data().len());
    if let Some((stdout, stderr)) = record.chunks.streams() {
        assert!(stdout.len() + stderr.len() <= bytes);
    }
    let written = serde_json::to_vec(&record).unwrap();
    assert_eq!(serde_json::from_slice::<Evidence>(&written).unwrap(), record);
}

/// A bundle as it is, and rightly signed by whoever wrote it.
fn signed_bundle(content: &[u8]) {
    let _ = verify(content, Trust::default());
    let Ok(text) = std::str::from_utf8(content) else { return };
    let Ok(json) = Json::parse(text) else { return };
    let canonical = json.canonical();
    let key = SigningKey::from_bytes(&[9; 32]);
    let digest: [u8; 32] = Sha256::digest(&canonical).into();
    let signed = json!({
        "bundle": json.into_value(),
        "public_key": hex_of_bytes(&key.verifying_key().to_bytes()),
        "signature": hex_of_bytes(&sign(&key, Domain::EvidenceBundle, &digest)),
    });
    let bytes = Json::from_value(&signed).unwrap_or(Json::Null).canonical();
    match verify(&bytes, Trust::default()) {
        Ok(report) => {
            assert_eq!(signed["bundle"]["form"], bundle::FORM);
            assert_eq!(signed["bundle"]["command_id"], Value::from(report.command_id));
        }
        Err(fault) => assert!(
            !matches!(fault, BundleFault::Signature | BundleFault::OtherKey { .. }),
            "{fault}"
        ),
    }
}
