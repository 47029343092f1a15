//! Snapshots: one of a machine whose guest is a few bytes of code, changed by the input. First
//! byte, lowest bit: whether checksums are made right again, as an attacker would.
//! Needs `/dev/kvm`, for the snapshot to start from.

use std::fs::File;
use std::io::Seek;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use sha2::{Digest, Sha256};
use vmm::snapshot_file::{Diff, Expectation, Info};
use vmm::{DiskImage, Golden, Machine, MachineConfig};

use crate::script::Script;

const DIGEST_BYTES: usize = 32;
const PREAMBLE_BYTES: usize = 16;
const SECTION_HEAD_BYTES: usize = 24;
const SECTIONS: usize = 6;
const MOST_CHANGES: usize = 16;

pub fn run(input: &[u8]) {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    let original = ORIGINAL.get_or_init(Original::make);
    let mut script = Script::new(input);
    let sealed_again = script.byte() & 1 != 0;
    let mut bytes = original.bytes.clone();
    for _ in 0..MOST_CHANGES {
        if script.is_over() {
            break;
        }
        original.change(&mut bytes, &mut script);
    }
    if sealed_again && bytes.len() == original.bytes.len() {
        original.seal_again(&mut bytes);
    }
    let untouched = bytes == original.bytes;
    let info = Info::read_from(original.file_of(&bytes));
    if untouched {
        assert!(info.is_ok(), "{info:?}");
    } else if !sealed_again {
        assert!(info.is_err(), "one wrong bit is seen");
        return;
    }
    match Golden::load_from(original.rewound(), &Expectation::default()) {
        Ok(loaded) => {
            loaded.hash().unwrap();
            Diff::between(&original.golden, &loaded).unwrap();
        }
        Err(error) => assert!(!untouched, "{error}"),
    }
}

struct Original {
    golden: Arc<Golden>,
    bytes: Vec<u8>,
    /// Header, sections, end; each with its digest.
    parts: Vec<Range<usize>>,
    /// The one that is read, in memory.
    file: File,
}

impl Original {
    fn make() -> Self {
        let config = MachineConfig::builder(vmm::micro::kernel(2).unwrap())
            .memory_mib(64)
            .cmdline("quiet")
            .disk(DiskImage::from_bytes(&[7; 9 * 512]).unwrap())
            .console_bytes(1024)
            .build()
            .unwrap();
        let machine = Machine::create(config).expect("a machine needs /dev/kvm");
        machine.boot().unwrap();
        machine.wait_checkpoint(0, Duration::from_secs(20)).unwrap();
        machine.pause().unwrap();
        let golden = machine.capture().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("snapshot");
        golden.save(&path).unwrap();
        let bytes = std::fs::read(path).unwrap();
        let parts = parts(&bytes);
        let file = rustix::fs::memfd_create("snapshot", MemfdFlags::CLOEXEC).unwrap().into();
        Self { golden, bytes, parts, file }
    }

    fn change(&self, bytes: &mut Vec<u8>, script: &mut Script<'_>) {
        let kind = script.byte();
        let part = &self.parts[script.below(self.parts.len())];
        let at = part.start + usize::from(script.half()) % part.len();
        let value: &[u8] = match kind % 8 {
            0..=3 => script.bytes(1),
            4 | 5 => script.bytes(4),
            6 => script.bytes(16),
            _ => return bytes.truncate(at),
        };
        for (to, from) in bytes.iter_mut().skip(at).zip(value) {
            *to = *from;
        }
    }

    fn file_of(&self, bytes: &[u8]) -> File {
        self.file.set_len(bytes.len() as u64).unwrap();
        self.file.write_all_at(bytes, 0).unwrap();
        self.rewound()
    }

    fn rewound(&self) -> File {
        let mut file = self.file.try_clone().unwrap();
        file.rewind().unwrap();
        file
    }

    fn seal_again(&self, bytes: &mut [u8]) {
        let mut digests = Vec::new();
        let (end, parts) = self.parts.split_last().unwrap();
        for part in parts {
            let digest_at = part.end - DIGEST_BYTES;
            let digest = Sha256::digest(&bytes[part.start..digest_at]);
            bytes[digest_at..part.end].copy_from_slice(&digest);
            digests.extend(digest);
        }
        bytes[end.clone()].copy_from_slice(&Sha256::digest(digests));
    }
}

/// Where the parts of a good snapshot lie.
fn parts(bytes: &[u8]) -> Vec<Range<usize>> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = PREAMBLE_BYTES + number(12) + DIGEST_BYTES;
    let header = 0..at;
    let mut parts = Vec::from([header]);
    for _ in 0..SECTIONS {
        let end = at + SECTION_HEAD_BYTES + number(at + 16) + DIGEST_BYTES;
        parts.push(at..end);
        at = end;
    }
    parts.push(at..at + DIGEST_BYTES);
    assert_eq!(at + DIGEST_BYTES, bytes.len());
    parts
}
