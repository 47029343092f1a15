//! The dependencies of the workspace's crates on each other.

use super::table::{Rows, row_of};
use crate::metadata::Package;

/// Dependencies that do not point to a lower row. Those of tests count too: what tests of a lower
/// crate need of a higher one belongs to a crate of tests above both.
pub fn upward(packages: &[Package], rows: &Rows) -> Vec<String> {
    let mut findings = Vec::new();
    for package in packages {
        for dependency in &package.dependencies {
            let known = packages.iter().any(|other| other.name == dependency.name);
            let (Some(from), Some(to)) =
                (row_of(rows, &package.name), row_of(rows, &dependency.name))
            else {
                continue;
            };
            if known && from >= to && package.name != dependency.name {
                let kind =
                    dependency.kind.as_deref().map(|k| format!(" ({k})")).unwrap_or_default();
                findings.push(format!(
                    "{}: crate {} depends on {}{kind}, which does not stand below it",
                    package.manifest_path.display(),
                    package.name,
                    dependency.name
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn package(name: &str, on: &[&str]) -> Package {
        let dependency = |name: &&str| Dependency { name: (*name).into(), kind: None };
        Package {
            name: name.into(),
            manifest_path: format!("/w/{name}/Cargo.toml").into(),
            dependencies: on.iter().map(dependency).collect(),
            targets: Vec::new(),
            features: [].into(),
        }
    }

    #[test]
    fn a_dependency_up_is_found() {
        let rows = vec![vec!["agent".to_owned()], vec!["vmm".to_owned(), "guest".to_owned()]];
        let down = [package("agent", &["vmm", "guest", "serde"]), package("vmm", &["serde"])];
        assert!(upward(&down, &rows).is_empty());
        let up = [package("agent", &["vmm"]), package("vmm", &["agent"])];
        assert!(upward(&up, &rows)[0].contains("crate vmm depends on agent"));
        let beside = [package("guest", &[]), package("vmm", &["guest"])];
        assert_eq!(upward(&beside, &rows).len(), 1);
    }
}
