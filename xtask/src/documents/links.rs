//! Relative links lead to files and anchors that exist.

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
    }
    findings
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
}
