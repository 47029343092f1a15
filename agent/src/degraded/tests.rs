use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use super::*;
use crate::store::testing::mode;
use sandbox::verify::{Finding, Location, RunState, Source, Verification};
use sandbox::{Cause, ForensicDump, MismatchedBlock};

const ID: &str = "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab";

/// An incident with another block of the disk.
fn verification() -> Verification {
    let location = Location::Block { number: 17 };
    Verification {
        disk_hash: Some("sha256:cc".into()),
        findings: vec![Finding::new(Source::Disk, location, "sha256:11", "sha256:22")],
        ..Verification::agreeing(SystemTime::UNIX_EPOCH, "sha256:aa", "sha256:bb", 6)
    }
}

pub(super) fn incident(second: u64, command_id: Option<&str>) -> Incident {
    Incident {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
        command_id: command_id.map(str::to_owned),
        cause: Cause::Verification(Box::new(verification())),
        dump: ForensicDump {
            blocks: vec![MismatchedBlock {
                location: 17,
                found: vec![2; 4096],
                golden: Some(vec![1; 4096]),
            }],
            pages: vec![MismatchedBlock { location: 0x2000, found: vec![3; 4096], golden: None }],
            console: "last words".into(),
            state: "vCPU 0".into(),
        },
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_incident_is_latched_on_disk_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    assert!(degraded.current().is_none());
    degraded.halt(&incident(7, Some(ID)));

    let latch = dir.path().join("degraded.json");
    assert_eq!(mode(&latch), 0o600);
    let again = DegradedMode::open(dir.path());
    let record = again.current().unwrap();
    assert_eq!(record, degraded.current().unwrap());
    assert_eq!(record.code, "ENDPOINT_RESET_VERIFICATION_DIVERGENCE");
    assert_eq!(record.since.to_string(), "1970-01-01T00:00:07.000Z");
    assert_eq!(record.command_id.as_deref(), Some(ID));
    assert!(record.reason.contains("block 17 is sha256:22, was sha256:11"), "{}", record.reason);
    assert_eq!(record.findings, verification().findings);
    assert!(again.take_news().is_empty(), "what an earlier process was told is no news");
    assert_eq!(degraded.take_news().len(), 1);
}

#[test]
fn a_damaged_latch_counts_as_degraded() {
    for content in [&b""[..], b"{}", b"null", b"\xff\xfe", &vec![b' '; 2 << 20]] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("degraded.json"), content).unwrap();
        let degraded = DegradedMode::open(dir.path());
        let record = degraded.current().unwrap();
        assert_eq!(record.code, "ENDPOINT_INTEGRITY_MONITOR_TRIPPED");
        assert!(record.reason.contains("cannot be read"), "{}", record.reason);
        degraded.clear(&record).unwrap();
        assert!(DegradedMode::open(dir.path()).current().is_none());
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("degraded.json")).unwrap();
    assert!(DegradedMode::open(dir.path()).current().is_some());
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("degraded.json")).unwrap();
    assert!(DegradedMode::open(dir.path()).current().is_some());
}

#[test]
fn the_first_incident_stays_and_the_others_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    degraded.halt(&incident(1, Some(ID)));
    // The sandbox and the dispatcher tell of the same command.
    degraded.halt(&incident(2, Some(ID)));
    assert_eq!(degraded.current().unwrap().further_incidents, 0);
    degraded.halt(&incident(3, None));
    degraded.halt(&incident(4, Some("another")));
    let record = degraded.current().unwrap();
    assert_eq!(record.further_incidents, 2);
    assert_eq!(record.since.millis(), 1000);
    assert_eq!(DegradedMode::open(dir.path()).current().unwrap().further_incidents, 2);
    let news: Vec<_> = degraded.take_news().iter().map(|news| news.since.millis()).collect();
    assert_eq!(news, [1000, 3000, 4000]);
    assert!(degraded.take_news().is_empty());
}

#[test]
fn only_what_was_seen_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    degraded.halt(&incident(1, None));
    let seen = degraded.current().unwrap();
    degraded.halt(&incident(2, None));
    assert!(matches!(degraded.clear(&seen), Err(ClearError::Changed)));
    assert!(DegradedMode::open(dir.path()).current().is_some());
    degraded.clear(&degraded.current().unwrap()).unwrap();
    assert!(degraded.current().is_none());
    assert_eq!(names(dir.path()), ["degraded.reserve", "forensics"]);
    // And it can happen again.
    degraded.halt(&incident(3, None));
    assert!(DegradedMode::open(dir.path()).current().is_some());
}

#[test]
fn what_is_left_of_the_machine_is_saved_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    degraded.halt(&incident(7, Some(ID)));
    let record = degraded.current().unwrap();
    let bundle = record.bundle.clone().unwrap();
    assert_eq!(bundle, format!("forensics/19700101T000007000Z-{ID}"));
    let bundle = dir.path().join(bundle);
    assert_eq!((mode(&bundle), mode(bundle.parent().unwrap())), (0o700, 0o700));
    assert_eq!(names(&bundle), ["blocks", "console.txt", "pages", "report.json", "state.txt"]);
    assert_eq!(fs::read(bundle.join("blocks/17.found")).unwrap(), [2; 4096]);
    assert_eq!(fs::read(bundle.join("blocks/17.golden")).unwrap(), [1; 4096]);
    assert_eq!(names(&bundle.join("pages")), ["0x2000.found"]);
    assert_eq!(mode(&bundle.join("pages/0x2000.found")), 0o600);
    assert_eq!(fs::read_to_string(bundle.join("console.txt")).unwrap(), "last words");
    let report: IncidentRecord =
        serde_json::from_slice(&fs::read(bundle.join("report.json")).unwrap()).unwrap();
    assert_eq!(report, *record);
}

#[test]
fn a_page_that_is_named_twice_is_saved_once() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    let mut twice = incident(7, Some(ID));
    twice.dump.pages.extend(twice.dump.pages.clone());
    degraded.halt(&twice);
    let bundle = dir.path().join(degraded.current().unwrap().bundle.clone().unwrap());
    assert_eq!(names(&bundle.join("pages")), ["0x2000.found"]);
}

#[test]
fn a_bundle_that_cannot_be_written_does_not_keep_the_latch_open() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("forensics"), "in the way").unwrap();
    let degraded = DegradedMode::open(dir.path());
    degraded.halt(&incident(7, Some(ID)));
    let record = DegradedMode::open(dir.path()).current().unwrap();
    assert_eq!(record.bundle, None);
    assert_eq!(record.command_id.as_deref(), Some(ID));
}

#[test]
fn a_latch_that_cannot_be_written_holds_in_memory_and_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let degraded = DegradedMode::open(&state);
    let away = dir.path().join("away");
    fs::rename(&state, &away).unwrap();
    degraded.halt(&incident(7, Some(ID)));
    assert!(degraded.current().is_some());
    fs::rename(&away, &state).unwrap();
    assert!(DegradedMode::open(&state).current().is_none());
    assert_eq!(degraded.take_news().len(), 1);
    assert!(DegradedMode::open(&state).current().is_some());
}

#[test]
fn old_bundles_go_and_the_one_the_latch_names_stays() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    for second in 0..MAX_BUNDLES as u64 + 10 {
        degraded.halt(&incident(second, None));
    }
    let kept = names(&dir.path().join("forensics"));
    assert_eq!(kept.len(), MAX_BUNDLES);
    assert_eq!(kept[0], "19700101T000000000Z-no-command", "{kept:?}");
    assert_eq!(kept[1], "19700101T000011000Z-no-command", "{kept:?}");
    assert_eq!(
        degraded.current().unwrap().bundle.as_deref(),
        Some(&*format!("forensics/{}", kept[0]))
    );
}

#[test]
fn names_of_bundles_stay_in_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    degraded.halt(&incident(1, Some("../../etc/x")));
    degraded.halt(&incident(1, Some(".._.._etc_x")));
    let kept = names(&dir.path().join("forensics"));
    let name = "19700101T000001000Z-______etc_x";
    assert_eq!(kept, [name.to_owned(), format!("{name}-1")]);
}

#[test]
fn everything_is_explained_without_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!explain::explain(dir.path()).degraded);
    assert!(explain::explain(dir.path()).in_words().starts_with("not degraded"));
    DegradedMode::open(dir.path()).halt(&incident(7, Some(ID)));
    let explanation = explain::explain(dir.path());
    let verdicts: Vec<_> =
        explanation.sources.iter().map(|of| (of.source, of.verdict, of.findings)).collect();
    assert_eq!(
        verdicts,
        [
            (Source::Disk, "disagreed", 1),
            (Source::Guest, "agreed", 0),
            (Source::Monitor, "agreed", 0),
            (Source::Memory, "agreed", 0),
        ]
    );
    let words = explanation.in_words();
    for wanted in [
        "DEGRADED since 1970-01-01T00:00:07.000Z",
        ID,
        "block 17\n      before  sha256:11\n      after   sha256:22",
        "blocks/17.found",
        "clear --reason",
        "did not write",
    ] {
        assert!(words.contains(wanted), "{wanted} is missing in\n{words}");
    }
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["record"]["findings"][0]["place"]["number"], 17);
    assert_eq!(json["files"].as_array().unwrap().len(), 6);
}

#[test]
fn what_was_halted_as_it_was_found_is_explained_so() {
    let dir = tempfile::tempdir().unwrap();
    let found = Verification {
        disk_hash: None,
        descriptors: None,
        run_state: RunState::Held,
        ..verification()
    };
    let cause = Cause::Verification(Box::new(found));
    DegradedMode::open(dir.path()).halt(&Incident { cause, ..incident(1, None) });
    let explanation = explain::explain(dir.path());
    let verdicts: Vec<_> = explanation.sources.iter().map(|of| of.verdict).collect();
    assert_eq!(verdicts, ["disagreed", "not asked", "not asked", "not asked"]);
    assert!(explanation.in_words().contains("was not reset"), "{}", explanation.in_words());
}

#[test]
fn a_latch_that_names_files_of_others_lists_none() {
    for bundle in ["/etc", "forensics/..", "../x", "forensics/a/b", "forensics/", "forensics"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("forensics/a/b")).unwrap();
        fs::write(dir.path().join("forensics/a/b/file"), "").unwrap();
        let record = IncidentRecord {
            bundle: Some(bundle.into()),
            ..IncidentRecord::of(&incident(7, None))
        };
        fs::write(dir.path().join("degraded.json"), record.to_bytes()).unwrap();
        let explanation = explain::explain(dir.path());
        assert!(explanation.degraded && explanation.files.is_empty(), "{bundle}");
    }
}

#[test]
fn silence_and_failed_resets_are_explained_as_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    let silent = Verification {
        silent: true,
        descriptors: None,
        disk_hash: Some("sha256:bb".into()),
        findings: Vec::new(),
        ..verification()
    };
    let cause = Cause::Verification(Box::new(silent));
    degraded.halt(&Incident { cause, ..incident(1, None) });
    let explanation = explain::explain(dir.path());
    assert_eq!(explanation.record.as_ref().unwrap().code, "ENDPOINT_RESET_VERIFICATION_TIMEOUT");
    assert!(explanation.in_words().contains("guest    silent"), "{}", explanation.in_words());
    degraded.clear(&degraded.current().unwrap()).unwrap();

    let cause = Cause::ResetFailed("it stays as it is".into());
    degraded.halt(&Incident { cause, ..incident(2, None) });
    let explanation = explain::explain(dir.path());
    assert_eq!(explanation.record.as_ref().unwrap().code, "ENDPOINT_RESET_FAILED");
    assert!(explanation.in_words().contains("could not be reset"));
}

#[test]
fn a_latch_of_others_is_still_a_latch() {
    let dir = tempfile::tempdir().unwrap();
    DegradedMode::open(dir.path()).halt(&incident(1, None));
    let latch = dir.path().join("degraded.json");
    fs::set_permissions(&latch, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(DegradedMode::open(dir.path()).current().is_some());
}
