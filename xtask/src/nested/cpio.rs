//! Writes initramfs archives: cpio in the "newc" format of the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.
//!
//! Archives are a pure function of what was added: no time stamps, no owners.

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory; parents must have been added before.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// Adds a file with the given permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, content);
    }

    /// The finished archive. A kernel accepts several of them, one behind the other.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let inode = if path == TRAILER { 0 } else { self.entries };
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        let size = content.len();
        let name_size = path.len() + 1;
        let header = format!(
            "{MAGIC}{inode:08x}{mode:08x}{uid:08x}{gid:08x}{links:08x}{mtime:08x}{size:08x}\
             {dev_major:08x}{dev_minor:08x}{rdev_major:08x}{rdev_minor:08x}{name_size:08x}\
             {check:08x}",
            uid = 0,
            gid = 0,
            mtime = 0,
            dev_major = 0,
            dev_minor = 0,
            rdev_major = 0,
            rdev_minor = 0,
            check = 0,
        );
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], index: usize) -> usize {
        let digits = std::str::from_utf8(&bytes[6 + 8 * index..14 + 8 * index]).unwrap();
        usize::from_str_radix(digits, 16).unwrap()
    }

    /// Reads an archive back: path, mode, content.
    fn parse(mut bytes: &[u8]) -> Vec<(String, usize, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], MAGIC.as_bytes());
            let (mode, size, name_size) = (number(bytes, 1), number(bytes, 6), number(bytes, 11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let content = (110 + name_size).next_multiple_of(4);
            let next = (content + size).next_multiple_of(4);
            entries.push((name.clone(), mode, bytes[content..content + size].to_vec()));
            bytes = &bytes[next..];
            if name == TRAILER {
                assert!(bytes.is_empty());
                return entries;
            }
        }
    }

    #[test]
    fn archive_reads_back() {
        for length in 0..9 {
            let content = vec![b'x'; length];
            let mut archive = Archive::default();
            archive.directory("bin");
            archive.file("bin/tool", 0o755, &content);
            archive.file("init", 0o700, b"#!/bin/tool\n");
            let entries = parse(&archive.finish());
            assert_eq!(
                entries,
                [
                    ("bin".into(), 0o040_755, vec![]),
                    ("bin/tool".into(), 0o100_755, content),
                    ("init".into(), 0o100_700, b"#!/bin/tool\n".to_vec()),
                    (TRAILER.into(), 0, vec![]),
                ]
            );
        }
    }

    #[test]
    fn same_content_gives_same_bytes() {
        let build = || {
            let mut archive = Archive::default();
            archive.file("a", 0o644, b"a");
            archive.finish()
        };
        assert_eq!(build(), build());
    }
}
