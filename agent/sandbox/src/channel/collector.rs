//! The output of one command: its evidence as it arrives, and its result against that evidence.
//! Both count only once the guest has confirmed the command's freshness.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use guest::evidence::{Chain, MAX_CHUNK_BYTES};
use guest::output::{self, STDERR_TAG, STDOUT_TAG};
use guest::wire::{Encoding, EvidenceChunk, Freshness, FreshnessAck, ToolResult};

use super::confirmation::Confirmation;
use super::error::{ChannelError, EvidenceFault};
use crate::Chunks;
use crate::call::PartialOutput;

/// Bytes of chunks beyond what the tool may return, for tags and for a guest that reads in large
/// pieces.
const SLACK: usize = 2 << 20;

/// Output of a command whose evidence holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The result as the guest sent it; its output is empty, because it is below.
    pub result: ToolResult,
    /// Start of the tool's output.
    pub stdout: Vec<u8>,
    /// Start of the tool's error output.
    pub stderr: Vec<u8>,
    /// The evidence of both.
    pub chunks: Chunks,
}

/// Collects and checks. Holds at most as much output as the command may return.
pub struct Collector {
    command_id: String,
    confirmation: Confirmation,
    chain: Chain,
    chunks: Chunks,
    last_seq: u64,
    is_closed: bool,
    limit: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Collector {
    /// For a command that was sent with `freshness`. Keeps up to `limit` bytes per output stream.
    pub fn new(command_id: &str, freshness: &Freshness, limit: usize) -> Self {
        Self {
            command_id: command_id.to_owned(),
            confirmation: Confirmation::of(freshness),
            chain: Chain::new(command_id),
            chunks: Chunks::default(),
            last_seq: 0,
            is_closed: false,
            limit,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Takes the guest's word that the command's time and randomness are in place.
    pub fn confirm(&mut self, ack: &FreshnessAck) -> Result<(), ChannelError> {
        self.confirmation.accept(ack).map_err(|detail| self.not_fresh(detail))
    }

    /// Takes the next chunk.
    pub fn add(&mut self, chunk: &EvidenceChunk) -> Result<(), ChannelError> {
        self.confirmation.check_chunk(chunk).map_err(|detail| self.not_fresh(detail))?;
        self.check(chunk).map_err(|fault| self.refuse(fault))
    }

    fn check(&mut self, chunk: &EvidenceChunk) -> Result<(), EvidenceFault> {
        self.check_order(chunk.seq)?;
        if self.is_closed {
            return Err(malformed(format!("chunk {} follows the terminal one", chunk.seq)));
        }
        if chunk.chunk_size > MAX_CHUNK_BYTES as u64 {
            let (size, limit) = (chunk.chunk_size, MAX_CHUNK_BYTES);
            return Err(EvidenceFault::TooLarge { size, limit });
        }
        let data = STANDARD
            .decode(&chunk.chunk_data)
            .map_err(|e| malformed(format!("chunk {} is not base64: {e}", chunk.seq)))?;
        if data.len() > MAX_CHUNK_BYTES {
            let (size, limit) = (data.len() as u64, MAX_CHUNK_BYTES);
            return Err(EvidenceFault::TooLarge { size, limit });
        }
        if data.len() as u64 != chunk.chunk_size {
            return Err(malformed(format!(
                "chunk {} says it has {} bytes and has {}",
                chunk.seq,
                chunk.chunk_size,
                data.len()
            )));
        }
        if chunk.is_terminal != data.is_empty() {
            return Err(malformed(format!(
                "chunk {} is {}",
                chunk.seq,
                if chunk.is_terminal { "terminal and not empty" } else { "empty and not terminal" }
            )));
        }
        // A tag for every byte is the most an honest guest needs.
        let most = self.limit.saturating_mul(4).saturating_add(SLACK);
        if self.chunks.len().saturating_add(data.len()) > most {
            return Err(malformed(format!(
                "with chunk {} there is more than the tool may write, {} bytes a stream",
                chunk.seq, self.limit
            )));
        }
        match data.split_first() {
            None => self.is_closed = true,
            Some((&STDOUT_TAG, output)) => keep(&mut self.stdout, output, self.limit),
            Some((&STDERR_TAG, output)) => keep(&mut self.stderr, output, self.limit),
            Some((tag, _)) => {
                return Err(malformed(format!("chunk {} has stream tag {tag}", chunk.seq)));
            }
        }
        self.chain.append(&data);
        self.chunks.push(&data);
        self.last_seq = chunk.seq;
        Ok(())
    }

    fn check_order(&self, found: u64) -> Result<(), EvidenceFault> {
        let last = self.last_seq;
        let expected = last.saturating_add(1);
        if found == expected {
            Ok(())
        } else if found > expected {
            Err(EvidenceFault::Gap { expected, found })
        } else if found == last {
            Err(EvidenceFault::Duplicate { seq: found })
        } else {
            Err(EvidenceFault::OutOfOrder { last, found })
        }
    }

    /// Takes the result: it must be what the chunks said.
    pub fn finish(&mut self, mut result: ToolResult) -> Result<Output, ChannelError> {
        self.confirmation.check_result(&result).map_err(|detail| self.not_fresh(detail))?;
        if !self.is_closed {
            let next = self.last_seq.saturating_add(1);
            return Err(self.refuse(malformed(format!(
                "the result came before the terminal chunk, which would be chunk {next}"
            ))));
        }
        let computed = self.chain.hash();
        if result.evidence_hash != computed {
            let claimed = result.evidence_hash;
            return Err(self.refuse(EvidenceFault::Mismatch { claimed, computed }));
        }
        let stdout = decode(std::mem::take(&mut result.stdout), result.stdout_encoding)?;
        let stderr = decode(std::mem::take(&mut result.stderr), result.stderr_encoding)?;
        for (stream, claimed, seen) in
            [("stdout", &stdout, &self.stdout), ("stderr", &stderr, &self.stderr)]
        {
            if claimed != seen {
                let say = |bytes: &Vec<u8>| format!("{} bytes of {stream}", bytes.len());
                let (claimed, computed) = (say(claimed), format!("{} (other ones)", say(seen)));
                return Err(self.refuse(EvidenceFault::Mismatch { claimed, computed }));
            }
        }
        let chunks = std::mem::take(&mut self.chunks);
        Ok(Output { result, stdout, stderr, chunks })
    }

    /// What there is of the output when there will be no result. Its evidence ends here.
    pub fn abandon(mut self) -> PartialOutput {
        self.chunks.close();
        PartialOutput {
            stdout: self.stdout,
            stderr: self.stderr,
            evidence_hash: Some(self.chunks.hash(&self.command_id)),
            chunks: self.chunks,
        }
    }

    /// Drops what was collected: it may come from a tool that had no right to run.
    fn not_fresh(&mut self, detail: String) -> ChannelError {
        self.stdout.clear();
        self.stderr.clear();
        self.chunks = Chunks::default();
        ChannelError::NotFresh { id: self.command_id.clone(), detail }
    }

    fn refuse(&self, fault: EvidenceFault) -> ChannelError {
        ChannelError::Evidence { command_id: self.command_id.clone(), fault }
    }
}

fn keep(stream: &mut Vec<u8>, output: &[u8], limit: usize) {
    let room = limit.saturating_sub(stream.len());
    stream.extend(output.iter().take(room));
}

fn decode(text: String, encoding: Encoding) -> Result<Vec<u8>, ChannelError> {
    output::decode(text, encoding).map_err(|e| ChannelError::Protocol {
        detail: format!("output in a result is not base64: {e}"),
    })
}

fn malformed(detail: String) -> EvidenceFault {
    EvidenceFault::Malformed(detail)
}
