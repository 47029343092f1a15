//! Which pages of sealed memory hold something. Holes are asked for, not read: reading one through
//! a mapping would fill it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};

use super::format::PAGE;
use crate::memory::is_zero;

/// How much is looked at in one go.
const CHUNK: usize = 64 * PAGE;

/// Consecutive pages that are not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first, counted from the beginning of the range.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Run {
    /// Position and length of its bytes in a range of `length` bytes, of which the last page may
    /// be incomplete.
    pub fn bytes(self, length: u64) -> (u64, u64) {
        let start = u64::from(self.first) * PAGE as u64;
        let end = (u64::from(self.first) + u64::from(self.count)) * PAGE as u64;
        (start, end.min(length).saturating_sub(start))
    }
}

/// The pages of `length` bytes of `file` from `offset` on that are not all zero, ascending.
pub fn runs(file: &File, offset: u64, length: u64) -> io::Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let end = offset + length;
    let mut at = offset;
    let mut buffer = vec![0; CHUNK];
    while let Some((from, to)) = next_data(file, at, end)? {
        // Whole pages, counted from the beginning of the range.
        let mut position = from - (from - offset) % PAGE as u64;
        while position < to {
            let count = (end - position).min(CHUNK as u64) as usize;
            let chunk = buffer.get_mut(..count).unwrap_or_default();
            file.read_exact_at(chunk, position)?;
            for (index, page) in chunk.chunks(PAGE).enumerate() {
                if is_zero(page) {
                    continue;
                }
                let page = ((position - offset) / PAGE as u64) as u32 + index as u32;
                match runs.last_mut() {
                    Some(run) if run.first + run.count == page => run.count += 1,
                    _ => runs.push(Run { first: page, count: 1 }),
                }
            }
            position += count as u64;
        }
        at = position.min(end);
    }
    Ok(runs)
}

/// Calls `each` with the bytes of `count` bytes of `file` from `offset` on, in order, piece by
/// piece.
pub fn for_each_piece<E: From<io::Error>>(
    file: &File,
    (offset, count): (u64, u64),
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0; CHUNK.min(count as usize)];
    let mut done = 0;
    while done < count {
        let length = (count - done).min(CHUNK as u64) as usize;
        let piece = buffer.get_mut(..length).unwrap_or_default();
        file.read_exact_at(piece, offset + done)?;
        each(piece)?;
        done += length as u64;
    }
    Ok(())
}

/// The next range between `at` and `end` that is not a hole.
fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= end {
        return Ok(None);
    }
    let from = match seek(file, SeekFrom::Data(at)) {
        Ok(from) => from,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        // A file system that does not know: everything may be data.
        Err(rustix::io::Errno::INVAL) => return Ok(Some((at, end))),
        Err(e) => return Err(e.into()),
    };
    if from >= end {
        return Ok(None);
    }
    let to = seek(file, SeekFrom::Hole(from)).map_or(end, |to| to.min(end));
    Ok(Some((from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SealedMemory;

    #[test]
    fn only_pages_with_something_in_them_are_found() {
        let pages = [0_u64, 1, 2, 70, 700, 999];
        let memory = SealedMemory::create("test", 1000 * PAGE, |file| {
            for page in pages {
                file.write_all_at(&[1], page * PAGE as u64 + 17)?;
            }
            // Data, as far as the kernel knows.
            file.write_all_at(&[0; 3 * PAGE], 300 * PAGE as u64)
        })
        .unwrap();
        let run = |first, count| Run { first, count };
        let all = runs(memory.file(), 0, 1000 * PAGE as u64).unwrap();
        assert_eq!(all, [run(0, 3), run(70, 1), run(700, 1), run(999, 1)]);
        let part = runs(memory.file(), 70 * PAGE as u64, 640 * PAGE as u64).unwrap();
        assert_eq!(part, [run(0, 1), run(630, 1)]);
        assert_eq!(runs(memory.file(), 3 * PAGE as u64, 60 * PAGE as u64).unwrap(), []);
    }

    #[test]
    fn the_last_page_may_be_incomplete() {
        let memory =
            SealedMemory::create("test", 5 * 512 + PAGE, |file| file.write_all_at(&[7; 1], 6655));
        let memory = memory.unwrap();
        let found = runs(memory.file(), 0, 6656).unwrap();
        assert_eq!(found, [Run { first: 1, count: 1 }]);
        assert_eq!(found[0].bytes(6656), (4096, 2560));
        let mut seen = Vec::new();
        for_each_piece(memory.file(), (4096, 2560), |piece| {
            seen.extend_from_slice(piece);
            Ok::<(), io::Error>(())
        })
        .unwrap();
        assert_eq!((seen.len(), seen[2559]), (2560, 7));
    }
}
