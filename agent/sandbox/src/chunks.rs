//! The chunks of one command, in memory.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use guest::evidence::Chain;
use guest::output::{STDERR_TAG, STDOUT_TAG};
use serde::{Deserialize, Serialize};

/// Chunks in their order, tags included.
///
/// As JSON: `{"data":"…","sizes":[…]}`, the data of all chunks one after the other in base64
/// (RFC 4648, section 4), and how many bytes of it each chunk has. The chunk at position n, from 1,
/// has the sequence number n; the last is the terminal one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Chunks {
    data: Vec<u8>,
    sizes: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    data: String,
    sizes: Vec<u32>,
}

impl From<Chunks> for Form {
    fn from(chunks: Chunks) -> Self {
        Self { data: STANDARD.encode(&chunks.data), sizes: chunks.sizes }
    }
}

impl TryFrom<Form> for Chunks {
    type Error = &'static str;

    fn try_from(form: Form) -> Result<Self, Self::Error> {
        let data = STANDARD.decode(form.data).map_err(|_| "the chunks are not in base64")?;
        Self::from_parts(data, form.sizes)
            .ok_or("the sizes of the chunks are not those of the data")
    }
}

impl Chunks {
    /// Those of a tool that wrote nothing: one, empty.
    pub fn of_nothing() -> Self {
        Self { data: Vec::new(), sizes: vec![0] }
    }

    /// Those of a tool that wrote this and nothing else.
    pub fn of_output(stdout: &[u8]) -> Self {
        let mut chunks = Self::default();
        if !stdout.is_empty() {
            chunks.push(&[&[STDOUT_TAG], stdout].concat());
        }
        chunks.close();
        chunks
    }

    /// Puts together what was taken apart; `None` when the sizes are not those of the data.
    pub fn from_parts(data: Vec<u8>, sizes: Vec<u32>) -> Option<Self> {
        let total = sizes
            .iter()
            .try_fold(0_usize, |total, size| total.checked_add(usize::try_from(*size).ok()?))?;
        (total == data.len()).then_some(Self { data, sizes })
    }

    /// Adds a chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        self.data.extend_from_slice(chunk);
        self.sizes.push(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
    }

    /// Ends the chain, unless it has ended.
    pub fn close(&mut self) {
        if self.sizes.last() != Some(&0) {
            self.push(&[]);
        }
    }

    /// Bytes of all chunks.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no chunk at all.
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// The bytes of all chunks, one after the other.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// How many bytes each chunk has.
    pub fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    /// Chunk after chunk.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.data.as_slice();
        self.sizes.iter().map_while(move |size| {
            let (chunk, after) = rest.split_at_checked(usize::try_from(*size).ok()?)?;
            rest = after;
            Some(chunk)
        })
    }

    /// The hash of the last chunk, as results have it.
    pub fn hash(&self, command_id: &str) -> String {
        let mut chain = Chain::new(command_id);
        for chunk in self.iter() {
            chain.append(chunk);
        }
        chain.hash()
    }

    /// What the tool wrote to each stream: output, error output. `None` when the chunks are not
    /// tagged, or do not end, as they must.
    pub fn streams(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut stdout, mut stderr, mut ended) = (Vec::new(), Vec::new(), false);
        for chunk in self.iter() {
            match chunk.split_first() {
                _ if ended => return None,
                None => ended = true,
                Some((&STDOUT_TAG, output)) => stdout.extend_from_slice(output),
                Some((&STDERR_TAG, output)) => stderr.extend_from_slice(output),
                Some(_) => return None,
            }
        }
        ended.then_some((stdout, stderr))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_chain_is_the_protocols() {
        let mut chunks = Chunks::default();
        chunks.push(b"hello\n");
        chunks.push(b"");
        chunks.push(b"world");
        assert_eq!(
            chunks.hash("cmd-0001"),
            "sha256:99dd281bfa6c33ff6058e37ebe5b2a38beec86c7b64709ca9bc4ee7393ea443b"
        );
        assert_eq!(
            Chunks::of_nothing().hash("3f2b8c1e-7d4a-4e9b-9c55-0123456789ab"),
            "sha256:da549b24ae8055cc501280eb3b430466044e43851ed27fb5c918475b070d8264"
        );
    }

    #[test]
    fn only_chunks_that_are_tagged_and_end_make_streams() {
        let streams = |chunks: &[&[u8]]| {
            let mut all = Chunks::default();
            for chunk in chunks {
                all.push(chunk);
            }
            all.streams()
        };
        assert_eq!(
            streams(&[b"\x01a", b"\x02e", b"\x01b", b""]),
            Some((b"ab".to_vec(), b"e".to_vec()))
        );
        assert_eq!(streams(&[b""]), Some((Vec::new(), Vec::new())));
        let wrong: [&[&[u8]]; 5] =
            [&[], &[b"\x01a"], &[b"\x03a", b""], &[b"", b"\x01a"], &[b"", b""]];
        for wrong in wrong {
            assert_eq!(streams(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn closing_twice_adds_one_chunk() {
        let mut chunks = Chunks::of_output(b"x");
        chunks.close();
        assert_eq!(chunks.sizes(), [2, 0]);
        assert_eq!(Chunks::of_output(b""), Chunks::of_nothing());
    }

    proptest! {
        #[test]
        fn what_is_taken_apart_comes_together_or_is_refused(
            all in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..9),
            more in 1_u32..9,
        ) {
            let mut chunks = Chunks::default();
            for chunk in &all {
                chunks.push(chunk);
            }
            let (data, mut sizes) = (chunks.data().to_vec(), chunks.sizes().to_vec());
            prop_assert_eq!(chunks.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), all);
            prop_assert_eq!(Chunks::from_parts(data.clone(), sizes.clone()), Some(chunks));
            sizes.push(more);
            prop_assert_eq!(Chunks::from_parts(data.clone(), sizes.clone()), None);
            sizes.push(u32::MAX);
            prop_assert_eq!(Chunks::from_parts(data, sizes), None);
        }
    }
}
