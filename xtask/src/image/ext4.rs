//! Writes a tree as an ext4 image, the same bytes for the same tree on every machine.
//!
//! Copying a directory of the host into the image would bring along its inode change times and
//! its order of names. So an empty file system is made with everything fixed and filled by a
//! script in sorted order, with the clock of both programs held still.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::process;
use super::tree::{Kind, Tree, split};

pub const PACKAGES: &[&str] = &["e2fsprogs"];

const BLOCK: u64 = 4096;
/// Room for what tools write, and for the file system's own tables.
const FREE_BLOCKS: u64 = 4 << 20 >> 12;
/// Sizes are multiples of this many blocks.
const SIZE_STEP: u64 = 2 << 20 >> 12;
const INODES: &str = "2048";
/// 2025-01-01 00:00:00 UTC, the time of every inode.
const TIME: &str = "1735689600";
const LABEL: &str = "bsm-rootfs";
const UUID: &str = "b50f0070-0000-4000-8000-000000000001";
const HASH_SEED: &str = "b50f0070-0000-4000-8000-000000000002";
/// No journal and no checksums: the guest's writes are thrown away, and the host verifies what
/// the guest reads. No features for growing either.
const FEATURES: &str = "none,dir_index,extent,extra_isize,filetype,large_file,sparse_super";

/// Writes the image to `path`, with help of a directory for scratch files.
pub fn write(tree: &Tree, path: &Path, scratch: &Path) -> Result<()> {
    let blocks = (tree.size_in_blocks(BLOCK) + FREE_BLOCKS).next_multiple_of(SIZE_STEP);
    let options = format!(
        "hash_seed={HASH_SEED},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
    );
    // A file from earlier would keep its old bytes in unused blocks.
    let _ = fs::remove_file(path);
    process::run(
        tool("mke2fs")
            .args(["-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-N", INODES])
            .args(["-O", FEATURES, "-E", &options, "-U", UUID, "-L", LABEL])
            .arg(path)
            .arg(blocks.to_string()),
    )?;
    let script = script(tree, scratch)?;
    let script_path = scratch.join("commands");
    fs::write(&script_path, script).context("writing the file system's commands")?;
    let printed = process::run(tool("debugfs").arg("-w").arg("-f").arg(&script_path).arg(path))?;
    // It ends with success even where commands failed.
    let complaints: Vec<&str> =
        printed.stderr.lines().filter(|line| !line.starts_with("debugfs 1.")).collect();
    ensure!(complaints.is_empty(), "debugfs complains: {}", complaints.join("; "));
    process::run(tool("e2fsck").args(["-f", "-n"]).arg(path))
        .context("checking the file system just made")?;
    Ok(())
}

/// The commands that fill the file system; contents of files go to `scratch`.
fn script(tree: &Tree, scratch: &Path) -> Result<String> {
    let scratch = scratch.to_str().context("the scratch directory's path is no UTF-8")?;
    ensure!(!scratch.contains(['"', '\n']), "no usable scratch directory: {scratch:?}");
    let mut script = String::new();
    for (index, (path, node)) in tree.iter().enumerate() {
        let (parent, name) = split(path);
        let _ = writeln!(script, "cd {parent}");
        let kind = match &node.kind {
            Kind::Directory => {
                let _ = writeln!(script, "mkdir {name}");
                0o040_000
            }
            Kind::File(content) => {
                let staged = format!("{scratch}/{index}");
                fs::write(&staged, content).with_context(|| format!("writing {staged}"))?;
                let _ = writeln!(script, "write \"{staged}\" {name}");
                0o100_000
            }
            Kind::Link(target) => {
                let _ = writeln!(script, "symlink {name} {target}");
                0o120_000
            }
        };
        // With a leading 0 the number is octal.
        let _ = writeln!(script, "sif {name} mode 0{:o}", kind | node.mode);
        for field in ["uid", "gid"] {
            let _ = writeln!(script, "sif {name} {field} {}", node.owner);
        }
        for field in ["atime", "ctime", "mtime", "crtime"] {
            let _ = writeln!(script, "sif {name} {field} @{TIME}");
            let _ = writeln!(script, "sif {name} {field}_extra 0");
        }
    }
    Ok(script)
}

/// A program of e2fsprogs, independent of the machine's configuration, clock and language.
fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    // Not in every user's path.
    for directory in ["/usr/sbin", "/sbin"] {
        let path = Path::new(directory).join(program);
        if path.exists() {
            command = Command::new(path);
            break;
        }
    }
    command
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("E2FSPROGS_FAKE_TIME", TIME)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env_remove("MKE2FS_FIRST_META_BG");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.directory("/bin", 0o755).unwrap();
        let mut program = vec![0xa5; 300_000];
        // Zeros, which a copy may turn into a hole.
        program[100_000..200_000].fill(0);
        tree.file("/bin/program", 0o755, program).unwrap();
        tree.link("/bin/[", "program").unwrap();
        tree.directory("/work", 0o750).unwrap();
        tree.give("/work", 1000).unwrap();
        tree.file("/work/empty", 0o600, "").unwrap();
        tree
    }

    fn show(image: &Path, command: &str) -> String {
        process::run(tool("debugfs").arg("-R").arg(command).arg(image)).unwrap().stdout
    }

    #[test]
    fn equal_trees_become_equal_bytes() {
        let build = |name: &str| {
            let scratch = tempfile::Builder::new().prefix(name).tempdir().unwrap();
            let image = scratch.path().join("image");
            // Left-overs must not show.
            fs::write(&image, vec![0xff; 1 << 20]).unwrap();
            write(&tree(), &image, scratch.path()).unwrap();
            fs::read(&image).unwrap()
        };
        let first = build("one");
        // Past the next second, and from files with other names and times.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(first == build("another-directory"), "the image depends on more than the tree");
        assert_eq!(first.len() as u64 % (SIZE_STEP * BLOCK), 0);
    }

    #[test]
    fn contents_owners_and_modes_arrive() {
        let scratch = tempfile::tempdir().unwrap();
        let image = scratch.path().join("image");
        write(&tree(), &image, scratch.path()).unwrap();
        let program = scratch.path().join("program");
        show(&image, &format!("dump /bin/program {}", program.display()));
        let Kind::File(content) = &tree().iter().nth(2).unwrap().1.kind.clone() else {
            panic!("not the program")
        };
        assert!(&fs::read(program).unwrap() == content);
        let work = show(&image, "stat /work");
        assert!(work.contains("Mode:  0750"), "{work}");
        assert!(work.contains("User:  1000   Group:  1000"), "{work}");
        assert!(work.contains("Wed Jan  1 00:00:00 2025"), "{work}");
        let link = show(&image, "stat /bin/[");
        assert!(link.contains("Fast link dest: \"program\""), "{link}");
    }

    #[test]
    fn a_failing_command_fails() {
        let scratch = tempfile::tempdir().unwrap();
        let mut tree = Tree::default();
        // More than a name may be long.
        tree.file(&format!("/{}", "x".repeat(300)), 0o644, "").unwrap();
        let image = scratch.path().join("image");
        let error = write(&tree, &image, scratch.path()).unwrap_err();
        assert!(error.to_string().contains("complains"), "{error}");
    }
}
