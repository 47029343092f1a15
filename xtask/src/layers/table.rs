//! The declared direction of dependencies, `layers.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The table's place in the workspace.
pub const TABLE: &str = "xtask/layers.toml";

/// Rows from the top down. What stands in a row may use what stands in rows below it, and nothing
/// else: neither what is above nor its neighbours in the row.
pub type Rows = Vec<Vec<String>>;

/// What `layers.toml` says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Crates of the workspace, by the names of their packages.
    pub crates: Rows,
    /// Top-level modules of crates, by the names of their packages.
    #[serde(default)]
    pub modules: BTreeMap<String, Rows>,
    /// Packages that only some may name.
    #[serde(default)]
    pub restricted: Vec<Restricted>,
    /// Libraries for others: each public item has one path.
    #[serde(default)]
    pub one_path: Vec<String>,
    /// Edges that are still to be cut.
    #[serde(default)]
    pub known: Vec<Known>,
}

/// A package that one crate must not depend on, or that only some of its modules may name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restricted {
    #[serde(rename = "crate")]
    pub package: String,
    /// Packages that are restricted.
    pub names: Vec<String>,
    /// The modules that may name them; without any, none may and no dependency is declared.
    #[serde(default)]
    pub only_in: Vec<String>,
}

/// An edge between two sibling modules that must not be there, and is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    #[serde(rename = "crate")]
    pub package: String,
    pub from: String,
    pub to: String,
}

impl Table {
    /// Reads the table of the workspace.
    pub fn read(workspace: &Path) -> Result<Self> {
        let path = workspace.join(TABLE);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {TABLE}"))?;
        toml::from_str(&text).with_context(|| format!("parsing {TABLE}"))
    }
}

/// The number of the row that holds `name`, from the top.
pub fn row_of(rows: &Rows, name: &str) -> Option<usize> {
    rows.iter().position(|row| row.iter().any(|member| member == name))
}

/// Says what `rows` and the names that really exist do not have in common.
pub fn unlisted(rows: &Rows, existing: &[&str], what: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for name in existing {
        if row_of(rows, name).is_none() {
            findings.push(format!("{TABLE}: {what} {name} stands in no row"));
        }
    }
    let mut seen = Vec::new();
    for name in rows.iter().flatten() {
        if seen.contains(&name) {
            findings.push(format!("{TABLE}: {what} {name} stands in two rows"));
        }
        if !existing.contains(&name.as_str()) {
            findings.push(format!("{TABLE}: there is no {what} {name}"));
        }
        seen.push(name);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Rows {
        rows.iter().map(|row| row.iter().map(|&name| name.to_owned()).collect()).collect()
    }

    #[test]
    fn rows_hold_what_exists_once() {
        let table = rows(&[&["top"], &["a", "b"], &["a"]]);
        let findings = unlisted(&table, &["top", "a", "c"], "crate").join("\n");
        for part in ["c stands in no row", "a stands in two rows", "no crate b"] {
            assert!(findings.contains(part), "{findings}");
        }
        assert!(unlisted(&rows(&[&["top"], &["a"]]), &["a", "top"], "crate").is_empty());
    }
}
