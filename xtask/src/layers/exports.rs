//! Collects what a module declares as `pub`.

use syn::{Item, UseTree, Visibility};

use super::module::Exports;
use super::references::{attributes_of, is_test_only, plain};

impl Exports {
    /// The exports of a module with these items. Code that is only built for tests is left out.
    pub fn of(items: &[Item]) -> Self {
        let mut exports = Self::default();
        for item in items.iter().filter(|item| !is_test_only(attributes_of(item))) {
            let (visibility, name) = match item {
                Item::Const(item) => (&item.vis, name_of(&item.ident)),
                Item::Enum(item) => (&item.vis, name_of(&item.ident)),
                Item::Fn(item) => (&item.vis, name_of(&item.sig.ident)),
                Item::Mod(item) => (&item.vis, name_of(&item.ident)),
                Item::Static(item) => (&item.vis, name_of(&item.ident)),
                Item::Struct(item) => (&item.vis, name_of(&item.ident)),
                Item::Trait(item) => (&item.vis, name_of(&item.ident)),
                Item::Type(item) => (&item.vis, name_of(&item.ident)),
                Item::Union(item) => (&item.vis, name_of(&item.ident)),
                Item::Use(item) if matches!(item.vis, Visibility::Public(_)) => {
                    exports.add_use(&item.tree, Vec::new());
                    continue;
                }
                _ => continue,
            };
            if matches!(visibility, Visibility::Public(_)) {
                exports.items.insert(name);
            }
        }
        exports
    }

    fn add_use(&mut self, tree: &UseTree, mut prefix: Vec<String>) {
        let (name, alias) = match tree {
            UseTree::Path(path) => {
                prefix.push(name_of(&path.ident));
                return self.add_use(&path.tree, prefix);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.add_use(tree, prefix.clone()));
            }
            UseTree::Glob(_) => return self.globs.push(prefix),
            UseTree::Name(name) => (name_of(&name.ident), None),
            UseTree::Rename(to) => (name_of(&to.ident), Some(name_of(&to.rename))),
        };
        if name != "self" {
            prefix.push(name);
        }
        if let Some(alias) = alias.or_else(|| prefix.last().cloned()) {
            self.imports.insert(alias, prefix);
        }
    }
}

fn name_of(ident: &proc_macro2::Ident) -> String {
    plain(&ident.to_string())
}
