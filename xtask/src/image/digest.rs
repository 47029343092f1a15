//! SHA-256 digests of the image's inputs and artifacts, written as `sha256:<hex>`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use guest::manifest::Input;
use sha2::{Digest, Sha256};

const BUFFER: usize = 1 << 20;

/// Digest of some bytes.
pub fn of_bytes(bytes: &[u8]) -> String {
    text(Sha256::digest(bytes).as_slice())
}

/// Digest and length of a file's content.
pub fn of_file(path: &Path) -> Result<(String, u64)> {
    let read = || -> std::io::Result<_> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER];
        let mut bytes: u64 = 0;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                return Ok((text(hasher.finalize().as_slice()), bytes));
            }
            hasher.update(&buffer[..n]);
            bytes += n as u64;
        }
    };
    read().with_context(|| format!("reading {}", path.display()))
}

fn text(hash: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in hash {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What something is made of, by name.
pub type Inputs = BTreeMap<String, Input>;

/// An input whose content is these bytes.
pub fn input(bytes: &[u8], version: Option<String>) -> Input {
    Input { sha256: of_bytes(bytes), version }
}

/// One digest over all names and contents. Versions are for people and do not count.
pub fn of_inputs(inputs: &Inputs) -> String {
    let mut hasher = Sha256::new();
    for (name, input) in inputs {
        for part in [name, &input.sha256] {
            // The length keeps one part from running into the next.
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
    }
    text(hasher.finalize().as_slice())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn known_digest() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of_bytes(b""), empty);
    }

    #[test]
    fn content_counts_and_time_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("input");
        fs::write(&path, "one").unwrap();
        let before = of_file(&path).unwrap();
        assert_eq!(before, (of_bytes(b"one"), 3));
        let later = SystemTime::now() + Duration::from_secs(3600);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(of_file(&path).unwrap(), before);
        fs::write(&path, "two").unwrap();
        assert_ne!(of_file(&path).unwrap(), before);
    }

    #[test]
    fn names_and_contents_count_in_the_whole() {
        let inputs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let named = pairs.map(|(name, text)| ((*name).into(), input(text.as_bytes(), None)));
            of_inputs(&named.collect())
        };
        let digest = inputs(&[("a", "1"), ("b", "2")]);
        assert_eq!(digest, inputs(&[("b", "2"), ("a", "1")]));
        assert_ne!(digest, inputs(&[("a", "2"), ("b", "1")]));
        assert_ne!(digest, inputs(&[("a", "1")]));
        assert_ne!(digest, inputs(&[("a", "1"), ("c", "2")]));
    }
}
