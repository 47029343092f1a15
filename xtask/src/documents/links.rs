//! Relative links lead to files and anchors that exist, and a name that a document places in a source file
//! is there.

use std::path::{Component, Path, PathBuf};

use super::markdown::Document;

/// What is wrong with links, one line each.
pub fn check(workspace: &Path, documents: &[Document]) -> Vec<String> {
    let mut findings = Vec::new();
    for document in documents {
        for (target, line) in &document.links {
            if let Some(why) = problem(workspace, documents, document, target) {
                findings.push(format!("{}:{line}: link {target}: {why}", document.path.display()));
            }
        }
        for (target, name, line) in &document.names {
            if let Some(file) = source_without(workspace, document, target, name) {
                let at = document.path.display();
                findings.push(format!("{at}:{line}: there is no {name} in {}", file.display()));
            }
        }
    }
    findings
}

/// The source file that a link leads to, where a word of this name does not occur in it.
fn source_without(workspace: &Path, from: &Document, target: &str, name: &str) -> Option<PathBuf> {
    let directory = from.path.parent().unwrap_or(Path::new(""));
    let path = inside(&directory.join(target))
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))?;
    let text = std::fs::read_to_string(workspace.join(&path)).ok()?;
    let mut words =
        name.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let has =
        |word: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word);
    (!words.all(has)).then_some(path)
}

fn problem(
    workspace: &Path,
    documents: &[Document],
    from: &Document,
    target: &str,
) -> Option<String> {
    if is_external(target) {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(f, a)| (f, Some(a)));
    let path = if file.is_empty() {
        from.path.clone()
    } else {
        let directory = from.path.parent().unwrap_or(Path::new(""));
        let Some(path) = inside(&directory.join(file)) else {
            return Some("it leads out of the workspace".into());
        };
        if !workspace.join(&path).exists() {
            return Some(format!("there is no {}", path.display()));
        }
        path
    };
    let anchor = anchor?;
    // In a file of another kind an anchor names a line.
    let there = documents.iter().find(|document| document.path == path)?;
    (!there.anchors.contains(anchor))
        .then(|| format!("{} has no heading #{anchor}", path.display()))
}

/// Whether a scheme such as `https:` stands before it.
fn is_external(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// The path without `.` and `..`; `None` where it leads out of the workspace.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_and_anchors_are_found() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("docs")).unwrap();
        std::fs::write(directory.path().join("README.md"), "").unwrap();
        let document = |path: &str, text| Document::parse(path.into(), text);
        let documents = [
            document("README.md", "# Top\n"),
            document(
                "docs/a.md",
                "# A\n[1](../README.md#top) [2](#a) [3](https://x.example/y#z) [4](../docs)\n\
                 [5](../README.md#gone)\n[6](b.md)\n[7](#b)\n[8](../../out.md)\n[9](/etc)\n",
            ),
        ];
        let findings = check(directory.path(), &documents);
        assert_eq!(findings.len(), 5, "{findings:?}");
        for (finding, part) in findings.iter().zip(["a.md:3", "b.md", "#b", "out of", "out of"]) {
            assert!(finding.contains(part), "{finding}");
        }
    }

    #[test]
    fn a_name_that_has_moved_to_another_file_is_found() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.rs"), "fn kept() { Step::ALL }").unwrap();
        let text = "| [a](a.rs) (`kept`) | `Step::ALL` in [a](a.rs), `other` and [a](a.rs) (see `x`) |\n\n\
                    `moved` in [a](a.rs)\n\n[a](a.rs) (`gone`) `kep` in [a](a.rs)\n";
        let documents = [Document::parse("README.md".into(), text)];
        let findings = check(directory.path(), &documents);
        let names: Vec<_> =
            findings.iter().map(|f| f.split(' ').nth(4).unwrap_or_default()).collect();
        assert_eq!(names, ["moved", "gone", "kep"], "{findings:?}");
    }
}
