//! Finds the module in which the thing that a path names is defined, through re-exports.

use super::tree::ModuleTree;

/// Re-exports that are followed one after the other. More means that names go in a circle.
const MAX_REEXPORTS: usize = 16;

impl ModuleTree {
    /// The module that defines what `segments`, written in module `from`, name. `None` when that is
    /// outside of this crate or a local name.
    pub fn resolve(&self, from: usize, segments: &[String]) -> Option<usize> {
        self.start(from, segments, MAX_REEXPORTS)
    }

    fn start(&self, from: usize, segments: &[String], left: usize) -> Option<usize> {
        let left = left.checked_sub(1)?;
        let (first, rest) = segments.split_first()?;
        match first.as_str() {
            "crate" => Some(self.walk(0, rest, left)),
            "self" => Some(self.walk(from, rest, left)),
            "super" => {
                let mut module = self.modules[from].parent?;
                let mut rest = rest;
                while let [next, further @ ..] = rest
                    && next == "super"
                {
                    module = self.modules[module].parent?;
                    rest = further;
                }
                Some(self.walk(module, rest, left))
            }
            name => {
                let module = &self.modules[from];
                if let Some(&child) = module.children.get(name) {
                    return Some(self.walk(child, rest, left));
                }
                if let Some(path) = module.imports.get(name) {
                    return self.start(from, &[path, rest].concat(), left);
                }
                if module.items.contains(name) {
                    return None;
                }
                let imported = self.through_glob(from, name, left)?;
                Some(self.walk(imported, segments, left))
            }
        }
    }

    /// What `rest` names, seen from inside of `module`.
    fn walk(&self, module: usize, rest: &[String], left: usize) -> usize {
        let Some((name, further)) = rest.split_first() else { return module };
        let here = &self.modules[module];
        if let Some(&child) = here.children.get(name) {
            return self.walk(child, further, left);
        }
        if here.items.contains(name) {
            return module;
        }
        if let Some(path) = here.imports.get(name) {
            let path = [path, further].concat();
            return self.start(module, &path, left).unwrap_or(module);
        }
        match self.through_glob(module, name, left) {
            Some(imported) => self.walk(imported, rest, left.saturating_sub(1)),
            // A macro made it, or it belongs to a type.
            None => module,
        }
    }

    /// The module from which a glob import in `module` brings `name`.
    fn through_glob(&self, module: usize, name: &str, left: usize) -> Option<usize> {
        left.checked_sub(1)?;
        self.modules[module].globs.iter().find_map(|path| {
            let imported = self.start(module, path, left)?;
            let there = &self.modules[imported];
            let known = there.items.contains(name)
                || there.children.contains_key(name)
                || there.imports.contains_key(name);
            (known && imported != module).then_some(imported)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Writes a crate and reads it.
    fn tree(files: &[(&str, &str)]) -> ModuleTree {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        ModuleTree::read(directory.path(), &directory.path().join("lib.rs")).unwrap()
    }

    fn found(tree: &ModuleTree, from: &str, path: &str) -> Option<String> {
        let from = tree.modules.iter().position(|module| module.path.join("::") == from).unwrap();
        let segments: Vec<String> = path.split("::").map(str::to_owned).collect();
        tree.resolve(from, &segments).map(|module| tree.modules[module].path.join("::"))
    }

    #[test]
    fn reexports_lead_to_where_the_thing_is() {
        let tree = tree(&[
            ("lib.rs", "mod a; mod b; mod c { pub mod d { pub struct E; } pub use d::E; }"),
            ("a.rs", "mod inner; pub use inner::Thing; pub use std::fmt::Debug;"),
            ("a/inner.rs", "pub struct Thing;"),
            ("b.rs", "pub use crate::a::*; use crate::c; struct Own;"),
        ]);
        let found = |from, path| found(&tree, from, path);
        assert_eq!(found("b", "crate::a::Thing").as_deref(), Some("a::inner"));
        assert_eq!(found("b", "super::a::inner::Thing::new").as_deref(), Some("a::inner"));
        assert_eq!(found("c", "crate::b::Thing").as_deref(), Some("a::inner"));
        assert_eq!(found("b", "c::E").as_deref(), Some("c::d"));
        assert_eq!(found("b", "Own::new"), None);
        assert_eq!(found("b", "std::fmt::Debug"), None);
        // What an ancestor passes on from outside is the ancestor's.
        assert_eq!(found("a::inner", "super::Debug").as_deref(), Some("a"));
        assert_eq!(found("c::d", "super::super::b::Own").as_deref(), Some("b"));
    }

    #[test]
    fn names_that_go_in_a_circle_end() {
        let tree =
            tree(&[("lib.rs", "mod a { pub use super::b::X; } mod b { pub use super::a::X; }")]);
        assert!(found(&tree, "a", "crate::b::X").is_some());
    }
}
