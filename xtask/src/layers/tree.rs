//! The module tree of one crate target, read from its source files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use syn::{Item, ItemMod, LitStr};

use super::module::{Exports, Module};
use super::references::{self, is_test_only};

/// All modules of one crate target; the root is the first.
#[derive(Debug)]
pub struct ModuleTree {
    pub modules: Vec<Module>,
}

impl ModuleTree {
    /// Reads the target whose root file is `root`. Paths in the result are relative to `workspace`.
    pub fn read(workspace: &Path, root: &Path) -> Result<Self> {
        let mut tree = Self { modules: vec![Module::default()] };
        let directory = root.parent().unwrap_or(workspace).to_owned();
        tree.read_file(workspace, root, &directory, 0)?;
        Ok(tree)
    }

    /// `directory` is where files of child modules are looked for.
    fn read_file(
        &mut self,
        workspace: &Path,
        file: &Path,
        directory: &Path,
        module: usize,
    ) -> Result<()> {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let parsed =
            syn::parse_file(&text).with_context(|| format!("parsing {}", file.display()))?;
        file.strip_prefix(workspace).unwrap_or(file).clone_into(&mut self.modules[module].file);
        self.read_items(workspace, file, &parsed.items, directory, module)
    }

    fn read_items(
        &mut self,
        workspace: &Path,
        file: &Path,
        items: &[Item],
        directory: &Path,
        module: usize,
    ) -> Result<()> {
        references::collect(items, &mut self.modules[module]);
        self.modules[module].exports = Exports::of(items);
        for item in items {
            let Item::Mod(declared) = item else { continue };
            if !is_test_only(&declared.attrs) {
                self.read_child(workspace, file, declared, directory, module)?;
            }
        }
        Ok(())
    }

    fn read_child(
        &mut self,
        workspace: &Path,
        file: &Path,
        declared: &ItemMod,
        directory: &Path,
        parent: usize,
    ) -> Result<()> {
        let name = declared.ident.to_string();
        let name = name.strip_prefix("r#").unwrap_or(&name).to_owned();
        let mut path = self.modules[parent].path.clone();
        path.push(name.clone());
        let child = self.modules.len();
        let own_file = self.modules[parent].file.clone();
        self.modules.push(Module {
            path,
            file: own_file,
            parent: Some(parent),
            ..Module::default()
        });
        self.modules[parent].children.insert(name.clone(), child);
        let below = directory.join(&name);
        if let Some((_, items)) = &declared.content {
            return self.read_items(workspace, file, items, &below, child);
        }
        if let Some(named) = path_attribute(declared) {
            let found = file.parent().unwrap_or(workspace).join(named);
            let directory = found.parent().unwrap_or(workspace).to_owned();
            return self.read_file(workspace, &found, &directory, child);
        }
        let (flat, nested) = (directory.join(format!("{name}.rs")), below.join("mod.rs"));
        let found = if flat.is_file() { flat } else { nested };
        ensure!(found.is_file(), "{}: no file for module {name}", file.display());
        self.read_file(workspace, &found, &below, child)
    }
}

/// The file named by `#[path = "..."]`.
fn path_attribute(declared: &ItemMod) -> Option<String> {
    declared.attrs.iter().find(|attribute| attribute.path().is_ident("path")).and_then(
        |attribute| {
            let value = &attribute.meta.require_name_value().ok()?.value;
            let syn::Expr::Lit(literal) = value else { return None };
            let syn::Lit::Str(text) = &literal.lit else { return None };
            Some(LitStr::value(text))
        },
    )
}
