//! By how many paths others reach what a crate offers. A type with two paths has two names in
//! documentation, in messages of the compiler, and in programs that use it.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::ModuleTree;

/// Re-exports that are followed one after the other, and modules that are entered one in the other.
const MAX_DEPTH: usize = 16;

/// Something that a path leads to.
enum Thing {
    Module(usize),
    /// An item, by the module it stands in.
    Item(usize, String),
}

/// Items that others can reach by more than one path, each with its paths.
pub fn with_two_paths(tree: &ModuleTree) -> Vec<String> {
    let mut paths: BTreeMap<(usize, String), BTreeSet<String>> = BTreeMap::new();
    walk(tree, 0, "", MAX_DEPTH, &mut |item, path| {
        paths.entry(item).or_default().insert(path);
    });
    let several = paths.into_iter().filter(|(_, paths)| paths.len() > 1);
    several
        .map(|((module, name), paths)| {
            let file = tree.modules[module].file.display();
            let paths: Vec<String> = paths.into_iter().collect();
            format!("{file}: {name} has more than one public path: {}", paths.join(", "))
        })
        .collect()
}

fn walk(
    tree: &ModuleTree,
    module: usize,
    prefix: &str,
    left: usize,
    found: &mut dyn FnMut((usize, String), String),
) {
    let Some(left) = left.checked_sub(1) else { return };
    let here = &tree.modules[module];
    let path = |name: &str| format!("{prefix}::{name}");
    for name in &here.exports.items {
        match here.children.get(name) {
            Some(child) => walk(tree, *child, &path(name), left, found),
            None => found((module, name.clone()), path(name)),
        }
    }
    for (name, target) in &here.exports.imports {
        match lookup(tree, module, target, MAX_DEPTH) {
            Some(Thing::Module(target)) => walk(tree, target, &path(name), left, found),
            Some(Thing::Item(target, item)) => found((target, item), path(name)),
            // Another crate's.
            None => {}
        }
    }
    for target in &here.exports.globs {
        if let Some(Thing::Module(target)) = lookup(tree, module, target, MAX_DEPTH) {
            walk(tree, target, prefix, left, found);
        }
    }
}

/// What `path`, written in module `from`, names in this crate.
fn lookup(tree: &ModuleTree, from: usize, path: &[String], left: usize) -> Option<Thing> {
    let left = left.checked_sub(1)?;
    let (name, place) = path.split_last()?;
    let module = match (name.as_str(), place) {
        ("crate" | "self" | "super", _) => return tree.resolve(from, path).map(Thing::Module),
        (_, []) => from,
        _ => match lookup(tree, from, place, left)? {
            Thing::Module(module) => module,
            // A variant or an associated item.
            Thing::Item(..) => return None,
        },
    };
    let there = &tree.modules[module];
    if let Some(child) = there.children.get(name) {
        return Some(Thing::Module(*child));
    }
    if there.items.contains(name) {
        return Some(Thing::Item(module, name.clone()));
    }
    match there.imports.get(name) {
        Some(target) if target.as_slice() != path || module != from => {
            lookup(tree, module, target, left)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let tree = ModuleTree::read(directory.path(), &directory.path().join("lib.rs")).unwrap();
        with_two_paths(&tree)
    }

    const DEVICES: (&str, &str) = (
        "devices.rs",
        "mod disk { pub struct Disk; } pub use disk::Disk; pub struct Bus; pub(crate) struct Own;",
    );

    #[test]
    fn one_path_each_passes() {
        let root = "mod devices; pub use devices::{Bus, Disk}; pub use std::fmt::Debug;";
        assert_eq!(found(&[("lib.rs", root), DEVICES]), [""; 0]);
        let namespace = "mod devices; pub use devices as parts; use devices::Bus;";
        assert_eq!(found(&[("lib.rs", namespace), DEVICES]), [""; 0]);
    }

    #[test]
    fn a_public_module_beside_a_reexport_is_found() {
        let planted = "pub mod devices; pub use devices::Disk;";
        let findings = found(&[("lib.rs", planted), DEVICES]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].contains("Disk has more than one public path: ::Disk, ::devices::Disk")
        );
    }

    #[test]
    fn two_names_at_one_place_and_a_whole_module_twice_are_found() {
        let renamed = "mod devices; pub use devices::{Bus, Bus as Wires, Disk};";
        assert_eq!(found(&[("lib.rs", renamed), DEVICES]).len(), 1);
        let twice = "pub mod devices; pub use devices as parts;";
        assert_eq!(found(&[("lib.rs", twice), DEVICES]).len(), 2);
        let everything = "pub mod devices; pub use devices::*;";
        assert_eq!(found(&[("lib.rs", everything), DEVICES]).len(), 2);
    }

    #[test]
    fn what_only_tests_or_this_crate_see_is_no_path() {
        let root = "#[cfg(test)] pub mod devices; mod d { pub struct A; } pub use d::A; \
                    #[cfg(test)] pub use d::A as B; pub(crate) use d::A as C;";
        assert_eq!(found(&[("lib.rs", root), DEVICES]), [""; 0]);
    }
}
