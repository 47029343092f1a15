//! `docs/protocol-codes.md` names the codes of the source, all of them and no others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PREFIXES: [&str; 3] = ["ENDPOINT_", "SANDBOX_", "SYSTEM_"];

/// Codes between two marks, a pair of `mark` each.
fn codes(text: &str, mark: char) -> BTreeSet<String> {
    let words = text.split(mark).filter(|word| PREFIXES.iter().any(|p| word.starts_with(p)));
    let is_code = |word: &&str| {
        word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    words.filter(is_code).map(str::to_owned).collect()
}

/// Adds the codes that the sources in a directory hold as strings, tests included: they too speak of
/// codes that exist.
fn add_codes_in(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_codes_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(codes(&fs::read_to_string(path).unwrap(), '"'));
        }
    }
}

#[test]
fn the_page_names_every_code_of_the_source_and_no_other() {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut source = BTreeSet::new();
    for directory in ["src", "protocol/src", "sandbox/src"] {
        add_codes_in(&agent.join(directory), &mut source);
    }
    assert!(source.contains("SANDBOX_RESET_FAILED") && source.len() > 30, "{source:?}");
    let page = fs::read_to_string(agent.join("../docs/protocol-codes.md")).unwrap();
    assert_eq!(codes(&page, '`'), source);
}

#[test]
fn a_code_is_a_whole_word_between_two_marks() {
    let found = codes("`SANDBOX_A`, `SANDBOX_*` and `ENDPOINT_B` `OTHER_C` SYSTEM_D", '`');
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["ENDPOINT_B", "SANDBOX_A"]);
}
