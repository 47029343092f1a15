//! What is known of one module after its source was read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// One module: what it declares, what it imports, what it refers to.
#[derive(Debug, Default)]
pub struct Module {
    /// Names from the crate's root down; empty for the root itself.
    pub path: Vec<String>,
    /// The file in which its items stand, relative to the workspace.
    pub file: PathBuf,
    pub parent: Option<usize>,
    /// Child modules by name.
    pub children: BTreeMap<String, usize>,
    /// Names that `use` brings in, each with the path it stands for.
    pub imports: BTreeMap<String, Vec<String>>,
    /// Paths of which everything is imported.
    pub globs: Vec<Vec<String>>,
    /// Names of the items that stand here.
    pub items: BTreeSet<String>,
    /// What it declares as `pub`.
    pub exports: Exports,
    /// Paths that the code outside of test modules names.
    pub references: Vec<Reference>,
}

/// A path as it stands in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub segments: Vec<String>,
    /// Line in the module's file, from 1.
    pub line: usize,
}

/// What a module declares as `pub`.
#[derive(Debug, Default)]
pub struct Exports {
    /// Items that stand in the module, child modules among them.
    pub items: BTreeSet<String>,
    /// Names that `pub use` brings in, each with the path it stands for.
    pub imports: BTreeMap<String, Vec<String>>,
    /// Paths of which `pub use` brings in everything.
    pub globs: Vec<Vec<String>>,
}
