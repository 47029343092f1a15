//! Checks the documents of the workspace: their links, and the commands they show.

pub mod console;
mod links;
mod markdown;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use self::markdown::Document;

/// Checks links and anchors of all documents, and the form of their console blocks. An error means
/// that something is wrong in one of them.
pub fn check() -> Result<()> {
    let workspace = crate::workspace::root()?;
    let documents = read_all(&workspace)?;
    let mut findings = links::check(&workspace, &documents);
    let mut blocks = 0;
    for document in documents.iter().filter(|document| console::is_run(&document.path)) {
        let (found, wrong) = console::blocks(document);
        blocks += found.len();
        findings.extend(wrong);
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    ensure!(findings.is_empty(), "{} findings in documents", findings.len());
    let links: usize = documents.iter().map(|document| document.links.len()).sum();
    println!(
        "{} documents: {links} links lead somewhere, {blocks} console blocks are well formed.",
        documents.len()
    );
    Ok(())
}

/// All Markdown files that git knows or would add.
fn read_all(workspace: &Path) -> Result<Vec<Document>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"])
        .current_dir(workspace)
        .stdin(Stdio::null())
        .output()
        .context("starting git")?;
    ensure!(output.status.success(), "git ls-files failed: {}", output.status);
    let names = String::from_utf8(output.stdout).context("a file's name is no UTF-8")?;
    let paths = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    paths
        // A file that was removed and not committed yet is still listed.
        .filter(|path| workspace.join(path).is_file())
        .map(|path| {
            let text = std::fs::read_to_string(workspace.join(&path))
                .with_context(|| format!("reading {}", path.display()))?;
            Ok(Document::parse(path, &text))
        })
        .collect()
}

/// The console blocks that run in a test, and what is wrong with others.
pub fn console_blocks(workspace: &Path) -> Result<(Vec<console::Block>, Vec<String>)> {
    let (mut blocks, mut findings) = (Vec::new(), Vec::new());
    for document in read_all(workspace)?.iter().filter(|document| console::is_run(&document.path)) {
        let (found, wrong) = console::blocks(document);
        blocks.extend(found);
        findings.extend(wrong);
    }
    Ok((blocks, findings))
}
