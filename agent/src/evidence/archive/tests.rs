use std::os::unix::fs::PermissionsExt;

use super::*;

fn id(number: u32) -> String {
    format!("3f2b8c1e-7d4a-4e9b-9c55-{number:012}")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn numbers(dir: &Path) -> Vec<u32> {
    let all = list(dir).unwrap();
    let mut numbers: Vec<u32> = all.iter().map(|(id, _)| id[24..].parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

fn date(path: &Path, days: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
}

/// A file of 100 bytes for each command, so many days old.
fn some(ages: &[(u32, u64)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (number, days) in ages {
        let path = record_path(dir.path(), &id(*number)).unwrap();
        write_once(&path, &[b' '; 100]).unwrap();
        date(&path, *days);
    }
    dir
}

fn owed(numbers: &[u32]) -> HashSet<String> {
    numbers.iter().map(|number| id(*number)).collect()
}

#[test]
fn the_old_go_first_and_only_as_many_as_have_to() {
    let dir = some(&[(1, 40), (2, 3), (3, 2), (4, 1)]);
    fs::write(dir.path().join("other"), [0; 1000]).unwrap();
    let retention = Retention { bytes: 10_000, ..Retention::default() };
    assert_eq!(sweep(dir.path(), retention, &owed(&[])).unwrap(), 300);
    assert_eq!(numbers(dir.path()), [2, 3, 4]);
    assert_eq!(sweep(dir.path(), Retention { bytes: 250, ..retention }, &owed(&[])).unwrap(), 200);
    assert_eq!(numbers(dir.path()), [3, 4]);
    assert!(dir.path().join("other").exists());
}

#[test]
fn what_is_owed_stays_and_others_go_in_its_place() {
    let dir = some(&[(1, 40), (2, 3), (3, 2), (4, 1)]);
    let retention = Retention { bytes: 200, ..Retention::default() };
    assert_eq!(sweep(dir.path(), retention, &owed(&[1, 2])).unwrap(), 200);
    assert_eq!(numbers(dir.path()), [1, 2]);
    // Once it is owed no more it goes as any other.
    assert_eq!(sweep(dir.path(), retention, &owed(&[])).unwrap(), 100);
    assert_eq!(numbers(dir.path()), [2]);
}

#[test]
fn nothing_is_written_over_and_no_other_user_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    // What a crash left does not matter.
    fs::write(dir.path().join("a.json.new"), "half").unwrap();
    write_once(&path, b"1").unwrap();
    assert!(write_once(&path, b"2").is_err());
    assert_eq!(fs::read(&path).unwrap(), b"1");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(dir.path()), ["a.json"]);
}

#[test]
fn a_manifest_stays_while_it_is_in_use_and_as_long_as_its_records() {
    let dir = some(&[]);
    let (now, before) = (image_path(dir.path(), "sha256:aa"), image_path(dir.path(), "sha256:bb"));
    in_use(&now, b"{}").unwrap();
    in_use(&before, b"{}").unwrap();
    date(&now, 1000);
    date(&before, 1000);
    in_use(&now, b"{}").unwrap();
    sweep(dir.path(), Retention::default(), &owed(&[])).unwrap();
    assert_eq!(names(dir.path()), ["image-aa.json"]);
}

#[test]
fn only_commands_have_files() {
    assert_eq!(record_path(Path::new("/x"), "../../etc/passwd"), None);
    assert!(record_path(Path::new("/x"), &id(1)).is_some());
}
