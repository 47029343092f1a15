//! The commands that documents show, as jobs.
//!
//! The rule, for people who write documents:
//!
//! - A block with the fence `console` shows commands that a reader can type. Each runs in a test.
//! - A line that begins with `$ ` is a command for bash. A command that ends in `\` goes on in the next
//!   line. Every other line is output, which is not compared.
//! - The commands of one block run one after the other in one empty directory, with the built programs
//!   (`brainstorm-agent`, `dev-relay`, `bsm-redteam`) in the path. Each has to succeed. Where the block
//!   says `# exit 2`, the last one has to end with that status instead.
//! - `console guest` is for commands that boot a Linux guest: they run where the guest tests run.
//! - `console no-run: REASON` runs nowhere. The reason says what a test lacks: root, a relay, an hour.
//!
//! Blocks in README.md, vmm/README.md and below docs/ follow the rule; `cargo xtask links` checks
//! their form, `cargo xtask test` runs them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::markdown::{Document, Fenced};
use crate::nested::job::Job;

/// Seconds that one block may take.
const LIMIT: u32 = 300;

/// The commands of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub document: PathBuf,
    pub line: usize,
    pub commands: Vec<String>,
    /// The status with which the last command has to end.
    pub status: u8,
    /// Whether it boots a Linux guest.
    pub needs_guest: bool,
}

/// Whether commands in this document run in a test.
pub fn is_run(document: &Path) -> bool {
    ["README.md", "vmm/README.md"].iter().any(|name| document == Path::new(name))
        || document.starts_with("docs")
}

/// The blocks of a document that run, and what is wrong with the others.
pub fn blocks(document: &Document) -> (Vec<Block>, Vec<String>) {
    let (mut blocks, mut findings) = (Vec::new(), Vec::new());
    for fenced in &document.blocks {
        match read(&document.path, fenced) {
            Ok(block) => blocks.extend(block),
            Err(why) => {
                findings.push(format!("{}:{}: {why}", document.path.display(), fenced.line));
            }
        }
    }
    (blocks, findings)
}

/// `None` for a block that runs nowhere.
fn read(document: &Path, fenced: &Fenced) -> Result<Option<Block>, String> {
    let Some(mode) = fenced.info.strip_prefix("console") else { return Ok(None) };
    let needs_guest = match mode.trim() {
        "" => false,
        "guest" => true,
        other => match other.strip_prefix("no-run") {
            Some(reason) if reason.trim_start_matches(':').trim().is_empty() => {
                return Err("say why it does not run: ```console no-run: REASON".into());
            }
            Some(_) => return Ok(None),
            None => return Err(format!("console blocks know no `{other}`")),
        },
    };
    let (mut commands, mut status, mut goes_on) = (Vec::<String>::new(), 0, false);
    for line in fenced.text.lines() {
        if let Some(more) = goes_on.then_some(line).filter(|line| !line.starts_with("$ ")) {
            if let Some(command) = commands.last_mut() {
                let _ = write!(command, "\n{more}");
            }
        } else if let Some(command) = line.strip_prefix("$ ") {
            commands.push(command.to_owned());
        } else if let Some(text) = line.strip_prefix("# exit ") {
            status = text.trim().parse().map_err(|_| format!("`{line}` names no exit status"))?;
            continue;
        } else {
            continue;
        }
        goes_on = line.ends_with('\\');
    }
    if commands.is_empty() {
        return Err("no line begins with `$ `: nothing would run".into());
    }
    let (document, line) = (document.to_owned(), fenced.line);
    Ok(Some(Block { document, line, commands, status, needs_guest }))
}

impl Block {
    /// The block as a job with `programs` in its path.
    pub fn job(
        &self,
        workspace: &Path,
        programs: &Path,
        environment: BTreeMap<String, String>,
    ) -> Job {
        Job {
            label: format!("{}:{} (console)", self.document.display(), self.line),
            argv: vec![
                "timeout".into(),
                LIMIT.to_string(),
                "/bin/bash".into(),
                "-c".into(),
                self.script(programs),
            ],
            directory: workspace.to_owned(),
            environment,
        }
    }

    /// Runs all commands in a directory that goes afterwards; `/run` is in memory everywhere.
    fn script(&self, programs: &Path) -> String {
        let mut script = format!(
            "shopt -s expand_aliases\nset -o pipefail\nPATH={}:$PATH\n\
             scratch=$(mktemp -d) && cd \"$scratch\" || exit 1\nexport HOME=$scratch\n\
             trap 'rm -rf \"$scratch\"' EXIT\n",
            quoted(&programs.display().to_string())
        );
        let last = self.commands.len().saturating_sub(1);
        for (index, command) in self.commands.iter().enumerate() {
            let expected = if index == last { self.status } else { 0 };
            let _ = write!(
                script,
                "printf '%s\\n' {}\n{command}\nstatus=$?\n\
                 [ $status -eq {expected} ] || {{ echo \"exit status $status, not {expected}\" >&2; exit 1; }}\n",
                quoted(&format!("$ {command}"))
            );
        }
        script
    }
}

/// The text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn fenced(info: &str, text: &str) -> Fenced {
        Fenced { info: info.into(), text: text.into(), line: 1 }
    }

    fn block(info: &str, text: &str) -> Result<Option<Block>, String> {
        read(Path::new("docs/a.md"), &fenced(info, text))
    }

    /// Whether the block passes when it runs.
    fn passes(text: &str) -> bool {
        let block = block("console", text).unwrap().unwrap();
        let script = block.script(Path::new("/nowhere/it's"));
        Command::new("/bin/bash").args(["-c", &script]).output().unwrap().status.success()
    }

    #[test]
    fn a_block_runs_unless_it_says_why_not() {
        assert!(!block("console", "$ true\n").unwrap().unwrap().needs_guest);
        assert!(block("console guest", "$ true\n").unwrap().unwrap().needs_guest);
        assert_eq!(block("console no-run: needs root", "# agent run\n"), Ok(None));
        assert_eq!(block("rust", "fn f() {}\n"), Ok(None));
        for info in ["console no-run", "console no-run:", "console norun: x"] {
            assert!(block(info, "$ true\n").is_err(), "{info}");
        }
        assert!(block("console", "# agent run\n").is_err());
        assert!(block("console", "$ true\n# exit two\n").is_err());
    }

    #[test]
    fn commands_share_a_shell_and_each_has_to_succeed() {
        assert!(passes("$ alias a=echo\n$ a one > file\none\n$ test \"$(cat file)\" = one\n"));
        assert!(!passes("$ false\n$ true\n"));
        assert!(!passes("$ false | cat\n"));
        assert!(passes("$ echo one \\\n  two | grep -q 'one two'\n"));
    }

    #[test]
    fn another_status_can_be_asked_for() {
        assert!(passes("$ true\n$ exit_with() { return 2; }; exit_with\n# exit 2\n"));
        assert!(!passes("$ true\n# exit 2\n"));
    }

    #[test]
    fn only_documents_for_readers_are_run() {
        for (path, runs) in [
            ("README.md", true),
            ("vmm/README.md", true),
            ("docs/a/b.md", true),
            ("kernel-config/README.md", false),
        ] {
            assert_eq!(is_run(Path::new(path)), runs, "{path}");
        }
    }
}
