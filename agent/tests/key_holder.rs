//! The process that holds the key, as the agent starts it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use brainstorm_agent::keyholder::KeyHolder;
use brainstorm_agent::store::identity::{PendingIdentity, Registration};
use ed25519_dalek::VerifyingKey;
use protocol::signing::{Domain, connection_proof_bytes, verify};
use protocol::timestamp::Timestamp;
use rustix::process::{Pid, Signal, kill_process};

const ENDPOINT: &str = "dc4a8b19-91c5-4c30-b66d-549dc96aea71";
/// Set in the process that plays an agent.
const AGENT: &str = "BSM_TEST_AGENT";
const TEST_OF_THE_AGENT: &str = "an_agent_that_is_killed";

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_brainstorm-agent"))
}

fn identity(dir: &Path) -> PathBuf {
    let path = dir.join("identity.json");
    let registration = Registration {
        endpoint_id: ENDPOINT.into(),
        tenant_id: "tenant-local".into(),
        registered_at: "2026-01-02T03:04:05.678Z".into(),
        relay: "https://relay.example".into(),
    };
    PendingIdentity::prepare(&path, false).unwrap().enrolled(registration).unwrap();
    path
}

fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line[field.len()..].trim_start_matches(':').trim().to_owned()
}

fn ends(pid: u32) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => std::thread::sleep(Duration::from_millis(10)),
            _ => return true,
        }
    }
    false
}

#[test]
fn it_signs_proofs_that_the_relay_can_check() {
    let dir = tempfile::tempdir().unwrap();
    let holder =
        KeyHolder::spawn_program(program(), &identity(dir.path()), Some(ENDPOINT)).unwrap();
    let key = VerifyingKey::from_bytes(&holder.public().public_key).unwrap();
    for millis in [0, 30_000, -30_000] {
        let ts = Timestamp::now().plus_millis(millis);
        let signature = holder.connection_proof(ts).unwrap();
        let bytes = connection_proof_bytes(ENDPOINT, "tenant-local", &ts.to_string()).unwrap();
        assert!(verify(&key, Domain::ConnectionProof, &bytes, &signature));
        let later = ts.plus_millis(1).to_string();
        let other = connection_proof_bytes(ENDPOINT, "tenant-local", &later).unwrap();
        assert!(!verify(&key, Domain::ConnectionProof, &other, &signature));
    }
}

#[test]
fn it_can_do_nothing_else_and_no_process_can_look_inside() {
    let dir = tempfile::tempdir().unwrap();
    let holder = KeyHolder::spawn_program(program(), &identity(dir.path()), None).unwrap();
    let pid = holder.pid();
    assert_eq!(status(pid, "Seccomp"), "2");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Threads"), "1");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("0"), "{files}");
    // Files of a process that cannot be dumped are root's, whoever it runs as.
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}/mem")).unwrap());
    assert_eq!(owner, 0);
}

#[test]
fn a_bad_identity_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = identity(dir.path());
    let refused = |path: &Path, expected| {
        let error = KeyHolder::spawn_program(program(), path, expected).unwrap_err();
        error.to_string()
    };
    assert!(refused(&dir.path().join("nothing.json"), None).contains("enroll this endpoint first"));
    assert!(refused(&path, Some("another")).contains("not of another"));
    fs::write(&path, "{}").unwrap();
    assert!(refused(&path, None).contains("no identity"));
}

#[test]
fn it_ends_with_its_agent() {
    let dir = tempfile::tempdir().unwrap();
    let holder = KeyHolder::spawn_program(program(), &identity(dir.path()), None).unwrap();
    let pid = holder.pid();
    drop(holder);
    assert!(ends(pid));

    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST_OF_THE_AGENT, "--nocapture"])
        .env(AGENT, dir.path())
        .spawn()
        .unwrap();
    let pid_file = dir.path().join("pid");
    let until = Instant::now() + Duration::from_secs(20);
    let holder = loop {
        if let Ok(pid) = fs::read_to_string(&pid_file).unwrap_or_default().parse::<u32>() {
            break pid;
        }
        assert!(Instant::now() < until, "the agent did not start");
        std::thread::sleep(Duration::from_millis(10));
    };
    kill_process(Pid::from_child(&agent), Signal::KILL).unwrap();
    agent.wait().unwrap();
    assert!(ends(holder), "the key outlives its agent");
}

#[test]
fn an_agent_that_is_killed() {
    let Some(dir) = std::env::var_os(AGENT).map(PathBuf::from) else { return };
    let path = dir.join("identity.json");
    let holder = KeyHolder::spawn_program(program(), &path, None).unwrap();
    fs::write(dir.join("pid.new"), holder.pid().to_string()).unwrap();
    fs::rename(dir.join("pid.new"), dir.join("pid")).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn the_key_is_not_in_the_agents_memory() {
    let dir = tempfile::tempdir().unwrap();
    // Another process makes it, and tells it in disguise, so that this one never holds it.
    let made = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_identity_is_made"])
        .env(AGENT, dir.path())
        .status()
        .unwrap();
    assert!(made.success());
    let path = dir.path().join("identity.json");
    let holder = KeyHolder::spawn_program(program(), &path, None).unwrap();
    holder.connection_proof(Timestamp::now()).unwrap();
    let disguised = fs::read(dir.path().join("disguised")).unwrap();
    let digits = fs::read(dir.path().join("disguised_digits")).unwrap();

    let planted: Vec<u8> = (100..132).collect();
    assert!(memory_holds(&disguise(&planted)), "the search finds nothing at all");
    assert!(!memory_holds(&disguised), "the key is in the agent's memory");
    assert!(!memory_holds(&digits), "the key is in the agent's memory as text");

    let seed: [u8; 32] = disguise(&disguised).try_into().unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&seed);
    let public = holder.public().public_key;
    assert_eq!(key.verifying_key().to_bytes(), public, "something else was searched for");
    assert!(memory_holds(&disguised), "now it is");
    drop(planted);
}

#[test]
fn an_identity_is_made() {
    let Some(dir) = std::env::var_os(AGENT).map(PathBuf::from) else { return };
    let text = fs::read_to_string(identity(&dir)).unwrap();
    let digits = &text.split("\"seed\": \"").nth(1).unwrap()[..64];
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let seed: Vec<u8> = (0..64).step_by(2).map(byte).collect();
    fs::write(dir.join("disguised"), disguise(&seed)).unwrap();
    fs::write(dir.join("disguised_digits"), disguise(digits.as_bytes())).unwrap();
}

fn disguise(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

/// Whether memory that this process can write holds what has this disguise. Heap and stack keep
/// such things at multiples of 8; text may be anywhere.
fn memory_holds(disguised: &[u8]) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut memory = fs::File::open("/proc/self/mem").unwrap();
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (range, _) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(address(to) - address(from)).unwrap()];
        memory.seek(SeekFrom::Start(address(from))).unwrap();
        memory.read_exact(&mut bytes).is_ok()
            && bytes
                .windows(disguised.len())
                .any(|window| window.iter().zip(disguised).all(|(byte, other)| *byte == !*other))
    })
}
