//! Planted edges, circles and stale exceptions make the check fail; the workspace itself passes.

use std::fs;

use super::*;

/// A crate in a scratch directory.
fn tree(files: &[(&str, &str)]) -> ModuleTree {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    ModuleTree::read(directory.path(), &directory.path().join("lib.rs")).unwrap()
}

fn rows(rows: &[&[&str]]) -> Rows {
    rows.iter().map(|row| row.iter().map(|&name| name.to_owned()).collect()).collect()
}

const CRATE: &[(&str, &str)] = &[
    ("lib.rs", "mod high; mod low;"),
    ("high.rs", "mod one; mod two; pub use one::One; use crate::low::Low;"),
    ("high/one.rs", "pub struct One; use super::two::Two;"),
    ("high/two.rs", "pub struct Two;\n#[cfg(test)]\nmod tests { use crate::high::One; }"),
    ("low.rs", "pub struct Low;"),
];

/// [`CRATE`] with another text in one of its files.
fn with<'a>(file: &str, text: &'a str) -> Vec<(&'static str, &'a str)> {
    CRATE.iter().map(|&(name, old)| (name, if name == file { text } else { old })).collect()
}

fn findings(files: &[(&str, &str)], known: &[&Known]) -> Found {
    let order = rows(&[&["high"], &["low"]]);
    check_modules("some", &tree(files), Some(&order), known)
}

fn known(from: &str, to: &str) -> Known {
    Known { package: "some".into(), from: from.into(), to: to.into() }
}

#[test]
fn what_points_one_way_passes() {
    assert_eq!(findings(CRATE, &[]).findings, [""; 0]);
}

#[test]
fn a_planted_edge_up_is_found_with_its_line() {
    let planted = with("low.rs", "pub struct Low;\n\nfn f() { crate::high::One; }");
    let found = findings(&planted, &[]).findings.join("\n");
    assert!(found.contains("module low names high"), "{found}");
    assert!(found.contains("low.rs:3: crate::high::One"), "{found}");
}

#[test]
fn a_planted_circle_is_found_through_a_reexport() {
    let planted = with("high/two.rs", "pub struct Two;\nfn f(_: super::One) {}");
    let found = findings(&planted, &[]).findings.join("\n");
    assert!(found.contains("high::one -> high::two -> high::one"), "{found}");
    assert!(found.contains("high/two.rs:2: super::One"), "{found}");
}

#[test]
fn a_known_exception_stands_as_long_as_it_occurs() {
    let planted = with("high/two.rs", "pub struct Two;\nfn f(_: super::One) {}");
    let exception = known("high::two", "high::one");
    let found = findings(&planted, &[&exception]);
    assert_eq!(found.findings, [""; 0]);
    assert_eq!(found.occurred, std::slice::from_ref(&exception));
    // An edge that is no part of a circle, or that is gone, needs no exception.
    let harmless = known("high::one", "high::two");
    assert!(findings(CRATE, &[&harmless]).occurred.is_empty());
    assert!(findings(CRATE, &[&exception]).occurred.is_empty());
}

#[test]
fn a_restricted_package_is_named_in_its_place_only() {
    let rule = Restricted {
        package: "some".into(),
        names: vec!["vm-m".into()],
        only_in: vec!["high::one".into()],
    };
    let inside = with("high/one.rs", "pub struct One; use vm_m::Machine;");
    assert_eq!(misplaced(&tree(&inside), &rule), [""; 0]);
    let outside = with("low.rs", "pub struct Low;\nuse vm_m::Machine;");
    let found = misplaced(&tree(&outside), &rule).join("\n");
    assert!(found.contains("low.rs:2: vm_m::Machine"), "{found}");
}

#[test]
fn the_workspace_points_one_way() {
    let workspace = crate::workspace::root().unwrap();
    let (found, modules) = check(&workspace, &Table::read(&workspace).unwrap()).unwrap();
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(modules > 100);
}
