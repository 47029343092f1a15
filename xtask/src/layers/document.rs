//! The declared rows as docs/architecture.md shows them, between two comments.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::table::{Rows, Table};

/// The document's place in the workspace.
const DOCUMENT: &str = "docs/architecture.md";
const BEGIN: &str = "<!-- layers: written by `cargo xtask layers --write` -->\n";
const END: &str = "<!-- end of layers -->";

/// The rows as Markdown: a block for the crates, and one for each crate whose modules stand in rows.
/// Writing to a string cannot fail, so results of that are ignored.
fn markdown(table: &Table) -> String {
    let mut text = String::new();
    let mut block = |title: &str, rows: &Rows| {
        let _ = writeln!(text, "{title}, from the top down:\n\n```text");
        for row in rows {
            let _ = writeln!(text, "{}", row.join("  "));
        }
        let _ = writeln!(text, "```\n");
    };
    block("Crates", &table.crates);
    for (package, rows) in &table.modules {
        block(&format!("Modules of `{package}`"), rows);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// The document with the rows of the table. `None` where the comments are missing.
fn updated(text: &str, table: &Table) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", markdown(table)))
}

/// Writes the rows into the document.
pub fn write(workspace: &Path, table: &Table) -> Result<()> {
    let path = workspace.join(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {DOCUMENT}"))?;
    let Some(text) = updated(&text, table) else {
        bail!("{DOCUMENT} has no place for the rows: add the lines\n{BEGIN}{END}");
    };
    fs::write(&path, text).with_context(|| format!("writing {DOCUMENT}"))
}

/// Says whether the document shows other rows than the table.
pub fn check(workspace: &Path, table: &Table) -> Option<String> {
    let Ok(text) = fs::read_to_string(workspace.join(DOCUMENT)) else {
        return Some(format!("{DOCUMENT}: it cannot be read"));
    };
    (updated(&text, table).as_ref() != Some(&text)).then(|| {
        format!("{DOCUMENT}: it does not show the declared rows: run `cargo xtask layers --write`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[&[&str]]) -> Table {
        let crates = rows.iter().map(|row| row.iter().map(|&name| name.to_owned()).collect());
        Table { crates: crates.collect(), ..Table::default() }
    }

    #[test]
    fn another_table_than_the_documents_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(DOCUMENT);
        fs::create_dir(path.parent().unwrap()).unwrap();
        let first = table(&[&["top"], &["a", "b"]]);
        assert!(check(directory.path(), &first).is_some());
        fs::write(&path, "# A\n").unwrap();
        assert!(write(directory.path(), &first).is_err());
        fs::write(&path, format!("# A\n\n{BEGIN}{END}\nmore\n")).unwrap();
        write(directory.path(), &first).unwrap();
        assert_eq!(check(directory.path(), &first), None);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("top\na  b\n") && text.ends_with("more\n"), "{text}");
        assert!(check(directory.path(), &table(&[&["top"], &["b", "a"]])).is_some());
    }
}
