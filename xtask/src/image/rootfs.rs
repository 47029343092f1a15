//! What the guest finds on its disk: the guest program, busybox, the tool registry, and little
//! else. No package manager, no shell scripts, nothing with privileges of its own.

use anyhow::{Context, Result, ensure};
use guest::registry::{ArgvPart, Registry, ToolSpec};

use super::tree::Tree;

/// Where the guest program reads its tools.
const REGISTRY_PATH: &str = "/etc/bsm/tools.json";
/// The user tools run as.
const TOOL_USER: u32 = 1000;

/// Directories of root's, and the mount points of what the guest program mounts.
const DIRECTORIES: &[&str] = &[
    "/bin",
    "/dev",
    "/etc",
    "/etc/bsm",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/usr/bin",
    "/usr/share",
    "/usr/share/bsm",
    "/var",
    "/work",
];

/// Names under which busybox is reachable: tools of the registry and what a person wants in a
/// shell. Nothing for network, modules, users or terminals: the kernel has none of these.
const BUSYBOX_APPLETS: &[&str] = &[
    "[",
    "ash",
    "awk",
    "base64",
    "basename",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "chroot",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "diff",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "fold",
    "free",
    "grep",
    "groups",
    "gunzip",
    "gzip",
    "head",
    "hexdump",
    "hostname",
    "id",
    "kill",
    "killall",
    "link",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mktemp",
    "more",
    "mount",
    "mv",
    "nice",
    "nl",
    "nohup",
    "nproc",
    "od",
    "paste",
    "pidof",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "reboot",
    "renice",
    "rev",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha1sum",
    "sha256sum",
    "sha512sum",
    "shred",
    "shuf",
    "sleep",
    "sort",
    "split",
    "stat",
    "strings",
    "sync",
    "tac",
    "tail",
    "tar",
    "taskset",
    "tee",
    "test",
    "time",
    "timeout",
    "touch",
    "tr",
    "true",
    "truncate",
    "umount",
    "uname",
    "uniq",
    "unlink",
    "unshare",
    "uptime",
    "usleep",
    "wc",
    "which",
    "whoami",
    "xargs",
    "xxd",
    "yes",
    "zcat",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ntool:x:1000:1000:tool:/work:/bin/sh\n";
const GROUP: &str = "root:x:0:\ntool:x:1000:\n";
const HOSTNAME: &str = "bsm-sandbox\n";
const SAMPLE_TEXT: &str = include_str!("samples/sample.txt");
const SAMPLE_JSON: &str = include_str!("samples/sample.json");

/// The parts that are built or come from packages.
#[derive(Debug)]
pub struct Parts<'a> {
    pub guest_init: &'a [u8],
    pub busybox: &'a [u8],
    /// Lines of `busybox --list`.
    pub busybox_list: &'a str,
    /// `tools.json`.
    pub registry: &'a str,
    /// Further programs, by their paths.
    pub programs: &'a [(&'static str, Vec<u8>)],
}

/// Puts the tree together. Fails if a tool of the registry has no program in it.
pub fn tree(parts: &Parts) -> Result<Tree> {
    let mut tree = Tree::default();
    for path in DIRECTORIES {
        tree.directory(path, if *path == "/root" { 0o700 } else { 0o755 })?;
    }
    tree.directory("/tmp", 0o1777)?;
    tree.give("/work", TOOL_USER)?;
    tree.file("/sbin/init", 0o755, parts.guest_init)?;
    for (name, _) in guest::applets::APPLETS {
        tree.link(&format!("/usr/bin/{name}"), "/sbin/init")?;
    }
    for (path, program) in parts.programs {
        tree.file(path, 0o755, program.as_slice())?;
    }
    tree.file("/bin/busybox", 0o755, parts.busybox)?;
    for name in applets(parts.busybox_list) {
        tree.link(&format!("/bin/{name}"), "busybox")?;
    }
    tree.file("/etc/passwd", 0o644, PASSWD)?;
    tree.file("/etc/group", 0o644, GROUP)?;
    tree.file("/etc/hostname", 0o644, HOSTNAME)?;
    tree.file(REGISTRY_PATH, 0o644, parts.registry)?;
    tree.file("/usr/share/bsm/sample.txt", 0o644, SAMPLE_TEXT)?;
    tree.file("/usr/share/bsm/sample.json", 0o644, SAMPLE_JSON)?;
    for tool in tools(parts.registry)? {
        check_program(&tree, &tool)?;
    }
    Ok(tree)
}

/// The tools of a registry, which is checked as a whole, in the order of their names.
pub fn tools(registry: &str) -> Result<Vec<ToolSpec>> {
    let registry = Registry::parse(registry).context("reading guest/registry/tools.json")?;
    Ok(registry.tools().cloned().collect())
}

/// Those of our applets that this busybox was built with.
fn applets(list: &str) -> impl Iterator<Item = &'static str> {
    BUSYBOX_APPLETS.iter().copied().filter(move |name| list.lines().any(|line| line == *name))
}

fn check_program(tree: &Tree, tool: &ToolSpec) -> Result<()> {
    let Some(ArgvPart::Literal(program)) = tool.argv.first() else {
        anyhow::bail!("tool {} does not name its program literally", tool.name)
    };
    ensure!(
        tree.has_program(program),
        "tool {} needs {program}, which the image does not have: add an applet of busybox to \
         BUSYBOX_APPLETS of xtask/src/image/rootfs.rs, or a program to guest/src/applets, or correct \
         guest/registry/tools.json",
        tool.name
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::{Kind, Node};

    const REGISTRY: &str = include_str!("../../../guest/registry/tools.json");

    fn build(busybox_list: &str, registry: &str) -> Result<Tree> {
        let (guest_init, busybox) = (b"init", b"busybox");
        tree(&Parts { guest_init, busybox, busybox_list, registry, programs: &[] })
    }

    #[test]
    fn every_tool_of_the_registry_has_its_program() {
        let tree = build(&BUSYBOX_APPLETS.join("\n"), REGISTRY).unwrap();
        assert!(tree.has_program("/bin/sh"));
        let node = |path: &str| tree.iter().find(|(p, _)| *p == path).unwrap().1.clone();
        assert_eq!(node("/work"), Node { kind: Kind::Directory, mode: 0o755, owner: 1000 });
        assert_eq!(node("/etc/bsm/tools.json").kind, Kind::File(REGISTRY.into()));
    }

    #[test]
    fn a_tool_without_its_program_is_refused() {
        let list: Vec<&str> =
            BUSYBOX_APPLETS.iter().copied().filter(|name| *name != "df").collect();
        let error = build(&list.join("\n"), REGISTRY).unwrap_err();
        assert!(error.to_string().contains("disk_usage needs /bin/df"), "{error}");
    }

    #[test]
    fn applets_are_named_once_and_in_order() {
        assert!(BUSYBOX_APPLETS.is_sorted_by(|a, b| a < b));
    }
}
