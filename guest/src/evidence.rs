//! The evidence chain: each chunk's hash covers the one before, so the last hash stands for all.
//!
//! `h[n] = SHA-256("brainstorm-evidence-chunk-v1" 00 ‖ command id ‖ u64be(n) ‖ u32be(length) ‖
//! data ‖ h[n-1])`, where the command id is its UTF-8 text, `n` counts from 1 and `h[0]` is 32
//! zero bytes.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Largest chunk, in bytes of data.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

const DOMAIN: &[u8] = b"brainstorm-evidence-chunk-v1\0";

/// A chain under construction, at either end of the connection.
#[derive(Debug, Clone)]
pub struct Chain {
    command_id: String,
    seq: u64,
    head: [u8; 32],
}

impl Chain {
    /// An empty chain.
    pub fn new(command_id: &str) -> Self {
        Self { command_id: command_id.to_owned(), seq: 0, head: [0; 32] }
    }

    /// Appends a chunk; returns its position, from 1.
    pub fn append(&mut self, data: &[u8]) -> u64 {
        self.seq = self.seq.saturating_add(1);
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(self.command_id.as_bytes());
        hash.update(self.seq.to_be_bytes());
        hash.update(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(data);
        hash.update(self.head);
        self.head = hash.finalize().into();
        self.seq
    }

    /// Hash of the last chunk as it stands in results: `sha256:` and 64 hex digits.
    pub fn hash(&self) -> String {
        format_sha256(&self.head)
    }
}

/// A hash as the protocol writes it: `sha256:` and 64 lower-case hex digits.
pub fn format_sha256(hash: &[u8; 32]) -> String {
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(command_id: &str, chunks: &[&[u8]]) -> Vec<String> {
        let mut chain = Chain::new(command_id);
        chunks
            .iter()
            .map(|chunk| {
                chain.append(chunk);
                chain.hash().trim_start_matches("sha256:").to_owned()
            })
            .collect()
    }

    #[test]
    fn known_chains() {
        let bytes: Vec<u8> = (0..=255).collect();
        let id = "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab";
        assert_eq!(
            hashes(id, &[b"hello\n", &bytes, b""]),
            [
                "7d20a8df8f3d905c57627d060c13a188863a94140428796e2e6e375c2ab4776d",
                "118bc2af47e54ad023ac3e9ef1b732cd6270b52f9d8c5322606a72cda35a0a50",
                "4da483f550eb77a7cf2f3b7100644f73d5e0fad5adc87bc2a88f224c30f6e317",
            ]
        );
        assert_eq!(
            hashes(id, &[b""]),
            ["da549b24ae8055cc501280eb3b430466044e43851ed27fb5c918475b070d8264"]
        );
        assert_eq!(
            hashes("cmd-0001", &[b"hello\n", b"", b"world"]),
            [
                "db064f55d4f6d1b9a5270e27b5b6054b2a43bbbdef959667b977f4cc498e2cdc",
                "af7a53b167caf2710b1337a2b0aaf3946f37083ec00244e56ea8b98efe5424a0",
                "99dd281bfa6c33ff6058e37ebe5b2a38beec86c7b64709ca9bc4ee7393ea443b",
            ]
        );
    }

    #[test]
    fn every_bit_counts() {
        let base = hashes("c", &[b"ab", b"c"]);
        assert_ne!(base[1], hashes("c", &[b"a", b"bc"])[1]);
        assert_ne!(base[1], hashes("d", &[b"ab", b"c"])[1]);
        assert_ne!(base[1], hashes("c", &[b"ab", b"b"])[1]);
    }
}
