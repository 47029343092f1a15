//! A directory tree in memory: what the root file system will hold.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

/// Symbolic links followed before a path is given up.
const MAX_LINKS: usize = 8;

/// Files by absolute path; a directory sorts before what it holds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    /// Permission bits, including set-user-id and the like.
    pub mode: u32,
    /// User and group.
    pub owner: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File(Vec<u8>),
    /// With its target.
    Link(String),
}

impl Tree {
    /// A directory of root's.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.add(path, Kind::Directory, mode)
    }

    /// A file of root's.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Result<()> {
        self.add(path, Kind::File(content.into()), mode)
    }

    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, Kind::Link(target.to_owned()), 0o777)
    }

    /// Gives a path to another user and group.
    pub fn give(&mut self, path: &str, owner: u32) -> Result<()> {
        match self.nodes.get_mut(path) {
            Some(node) => node.owner = owner,
            None => bail!("{path} is not in the tree"),
        }
        Ok(())
    }

    fn add(&mut self, path: &str, kind: Kind, mode: u32) -> Result<()> {
        // The program that writes the file system reads its commands word by word.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+[".contains(c);
        let (parent, name) = split(path);
        ensure!(!name.is_empty() && path.chars().all(plain), "{path:?} is no usable path");
        let is_directory =
            parent == "/" || self.nodes.get(parent).is_some_and(|n| n.kind == Kind::Directory);
        ensure!(is_directory, "{parent}, which shall hold {path}, is no directory of the tree");
        let previous = self.nodes.insert(path.to_owned(), Node { kind, mode, owner: 0 });
        ensure!(previous.is_none(), "{path} is in the tree twice");
        Ok(())
    }

    /// Everything, directories before what they hold.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Bytes of all files, each rounded up to whole blocks.
    pub fn size_in_blocks(&self, block: u64) -> u64 {
        self.nodes
            .values()
            .map(|node| match &node.kind {
                Kind::File(content) => (content.len() as u64).div_ceil(block),
                Kind::Directory => 1,
                Kind::Link(_) => 0,
            })
            .sum()
    }

    /// Whether a program is at the path, possibly behind links in its last part.
    pub fn has_program(&self, path: &str) -> bool {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.nodes.get(&path).map(|node| (&node.kind, node.mode)) {
                Some((Kind::File(_), mode)) => return mode & 0o111 != 0,
                Some((Kind::Link(target), _)) if target.starts_with('/') => {
                    path.clone_from(target);
                }
                Some((Kind::Link(target), _)) => {
                    path = format!("{}/{target}", split(&path).0.trim_end_matches('/'));
                }
                _ => return false,
            }
        }
        false
    }
}

/// Parent directory and name.
pub fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(parts) => parts,
        None => ("", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.directory("/bin", 0o755).unwrap();
        tree.file("/bin/busybox", 0o755, "busybox").unwrap();
        tree.file("/bin/notes", 0o644, "text").unwrap();
        tree.link("/bin/sh", "busybox").unwrap();
        tree.link("/bin/ash", "/bin/sh").unwrap();
        tree.link("/bin/loop", "loop").unwrap();
        tree
    }

    #[test]
    fn programs_are_found_behind_links() {
        for path in ["/bin/busybox", "/bin/sh", "/bin/ash"] {
            assert!(tree().has_program(path), "{path}");
        }
        for path in ["/bin/notes", "/bin/loop", "/bin", "/bin/absent"] {
            assert!(!tree().has_program(path), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        assert!(tree().file("/usr/bin/x", 0o755, "").is_err());
        assert!(tree().file("/bin/sh/x", 0o755, "").is_err());
        assert!(tree().file("/bin/sh", 0o755, "").is_err());
        assert!(tree().file("/bin/a b", 0o755, "").is_err());
        assert!(tree().file("bin", 0o755, "").is_err());
        assert!(tree().give("/absent", 1000).is_err());
    }

    #[test]
    fn sizes_are_in_whole_blocks() {
        assert_eq!(tree().size_in_blocks(4), 1 + 2 + 1);
    }
}
