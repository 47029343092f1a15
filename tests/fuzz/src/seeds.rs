//! What fuzzing starts from, and what it once found: `seeds/TARGET/NAME`. A name that ends in `.hex`
//! holds hex digits, with white space anywhere and notes from `#` to the end of a line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory with one directory for each target.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

/// The seeds of a target with their names, in the order of those.
pub fn of(target: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut seeds = Vec::new();
    for entry in fs::read_dir(directory().join(target))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = fs::read(entry.path())?;
        let is_hex = entry.path().extension().is_some_and(|extension| extension == "hex");
        let bytes = if is_hex { of_hex(&bytes)? } else { bytes };
        seeds.push((name, bytes));
    }
    seeds.sort();
    Ok(seeds)
}

/// Writes the seeds of a target into a directory, as the bytes they stand for.
pub fn write(target: &str, directory: &Path) -> io::Result<()> {
    of(target)?.into_iter().try_for_each(|(name, bytes)| fs::write(directory.join(name), bytes))
}

fn of_hex(text: &[u8]) -> io::Result<Vec<u8>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let text = std::str::from_utf8(text).map_err(|_| wrong("a seed in hex is text"))?;
    let digits: Vec<u8> = text
        .lines()
        .map(|line| line.split_once('#').map_or(line, |(digits, _)| digits))
        .flat_map(str::chars)
        .filter(|character| !character.is_whitespace())
        .map(|digit| digit.to_digit(16).map(|value| value as u8))
        .collect::<Option<_>>()
        .ok_or_else(|| wrong("a seed in hex has hex digits and notes"))?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return Err(wrong("a seed in hex has two digits for each byte"));
    };
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{PLANTED, TARGETS};

    #[test]
    fn every_target_has_seeds_and_comes_through_all_of_them() {
        for target in TARGETS {
            let seeds = of(target.name).unwrap();
            assert!(!seeds.is_empty(), "{}", target.name);
            for (name, bytes) in seeds {
                eprintln!("{} {name}", target.name);
                (target.run)(&bytes);
                // The engine's first input.
                (target.run)(&[]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "planted bug")]
    fn the_planted_target_has_its_bug() {
        (PLANTED.run)(b"");
        (PLANTED.run)(b"bug.");
        (PLANTED.run)(b"bug!");
    }

    #[test]
    fn every_directory_of_seeds_belongs_to_a_target() {
        let directories = fs::read_dir(directory()).unwrap();
        let found: BTreeSet<String> =
            directories.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let known: BTreeSet<String> = TARGETS.iter().map(|target| target.name.into()).collect();
        assert_eq!(found, known);
    }

    #[test]
    fn hex_has_notes_and_pairs() {
        assert_eq!(of_hex(b"00 fF # a note: zz\n1\n2").unwrap(), [0, 0xff, 0x12]);
        assert!(of_hex(b"0").is_err());
        assert!(of_hex(b"0g").is_err());
    }
}
