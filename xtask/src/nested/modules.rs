//! Which kernel modules the nested machine loads, in an order in which they load.
//!
//! The package is unpacked and never installed, so nothing has written a `modules.dep`; the
//! modules' own `.modinfo` says the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Modules whose functions are wanted: the host's files over 9p, a port for results, KVM.
pub const WANTED: &[&str] = &["virtio_pci", "virtio_console", "9p", "9pnet_virtio", "kvm_amd"];

/// One module's name (with underscores) and content.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelModule {
    pub name: String,
    pub content: Vec<u8>,
}

/// The wanted modules below `directory` and all they depend on, dependencies first.
pub fn load_order(directory: &Path, wanted: &[&str]) -> Result<Vec<KernelModule>> {
    let mut files = BTreeMap::new();
    collect(directory, &mut files)?;
    let mut loaded = Vec::new();
    for name in wanted {
        add(name, &files, &mut loaded)?;
    }
    Ok(loaded)
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    loaded: &mut Vec<KernelModule>,
) -> Result<()> {
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let path = files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
    let content = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    for dependency in dependencies(&content) {
        add(&dependency, files, loaded)?;
    }
    loaded.push(KernelModule { name: name.to_owned(), content });
    Ok(())
}

/// The `depends=` entry of `.modinfo`, whose entries are strings that each end with a NUL.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    module
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(KEY))
        .map(|list| String::from_utf8_lossy(list).into_owned())
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("listing modules in {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {}", directory.display()))?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(|n| n.strip_suffix(".ko")) {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(directory: &Path, path: &str, depends: &str) {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0")).unwrap();
    }

    fn names(modules: &[KernelModule]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let tree = tempfile::tempdir().unwrap();
        module(tree.path(), "virt/kvm.ko", "irqbypass");
        module(tree.path(), "virt/kvm-amd.ko", "kvm,ccp");
        module(tree.path(), "lib/irqbypass.ko", "");
        module(tree.path(), "drivers/ccp.ko", "");
        module(tree.path(), "drivers/unrelated.ko", "missing");
        let loaded = load_order(tree.path(), &["kvm", "kvm_amd"]).unwrap();
        assert_eq!(names(&loaded), ["irqbypass", "kvm", "ccp", "kvm_amd"]);
    }

    #[test]
    fn missing_module_is_named() {
        let tree = tempfile::tempdir().unwrap();
        module(tree.path(), "kvm-amd.ko", "kvm");
        let error = load_order(tree.path(), &["kvm_amd"]).unwrap_err();
        assert!(error.to_string().contains("no module kvm"), "{error}");
    }
}
