//! Writing a snapshot, so that a reader finds either all of it or what was there before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};

use super::BUFFER_BYTES;
use super::SnapshotError;
use super::format::{
    DIGEST_BYTES, EXTENT_BYTES, FileHeader, Section, encode, hex, preamble, section_head, sha256,
};
use super::sparse::{self, Run};
use crate::arch::{VcpuImage, VcpuState};
use crate::snapshot::Golden;

/// See [`Golden::save`].
pub fn save(golden: &Golden, path: &Path) -> Result<(), SnapshotError> {
    replace(path, |file| {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        write(golden, &mut out)?;
        out.flush().map_err(SnapshotError::from)
    })
}

/// Lets `content` write a new file beside `path`, and puts it in its place once it is on disk.
pub fn replace(
    path: &Path,
    content: impl FnOnce(&File) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let failed = |source| SnapshotError::Write { path: path.to_owned(), source };
    let (directory, temporary) = beside(path).map_err(failed)?;
    // Before anything is written: without it the file could not be made to stay.
    let directory = File::open(directory).map_err(failed)?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    let removed_unless_done = Temporary(Some(temporary.clone()));
    content(&file).map_err(|error| match error {
        SnapshotError::Io(source) => failed(source),
        other => other,
    })?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    removed_unless_done.done();
    // The new file is complete, with or without this: a power cut may bring back the old one.
    directory.sync_all().map_err(SnapshotError::from)
}

/// The directory of `path`, and an unused name in it.
fn beside(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", hex(&random)));
    let temporary = directory.join(temporary);
    Ok((directory, temporary))
}

/// A file that is removed unless it has become what it was made for.
struct Temporary(Option<PathBuf>);

impl Temporary {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // There is an error to report already.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a whole snapshot.
pub fn write(golden: &Golden, out: &mut impl Write) -> Result<(), SnapshotError> {
    let header = encode(&FileHeader::of(golden)?)?;
    let length = u32::try_from(header.len()).map_err(io::Error::other)?;
    let preamble = preamble(length);
    let digest = sha256([preamble.as_slice(), &header]);
    out.write_all(&preamble)?;
    out.write_all(&header)?;
    out.write_all(&digest)?;
    let mut all = Sha256::new();
    all.update(digest);
    for (section, content) in small_sections(golden)? {
        let mut sink = Sink::begin(out, section, content.len() as u64)?;
        sink.put(&content)?;
        all.update(sink.end()?);
    }
    let regions = golden.memory.regions().iter();
    let regions: Vec<_> =
        regions.map(|region| (region.offset as u64, region.length as u64)).collect();
    all.update(pages(out, Section::Memory, golden.memory.sealed().file(), &regions)?);
    if let Some(disk) = &golden.disk {
        let region = (0, disk.length());
        all.update(pages(out, Section::Disk, disk.memory().file(), &[region])?);
    }
    out.write_all(&<[u8; DIGEST_BYTES]>::from(all.finalize()))?;
    Ok(())
}

/// The sections that are not pages, in their order.
pub fn small_sections(golden: &Golden) -> Result<[(Section, Vec<u8>); 4], SnapshotError> {
    let vcpus: Vec<&VcpuState> = golden.vcpus.iter().map(VcpuImage::state).collect();
    Ok([
        (Section::Cpuid, encode(&*golden.cpuid)?),
        (Section::Vcpus, encode(&vcpus)?),
        (Section::Machine, encode(&golden.vm)?),
        (Section::Devices, golden.devices.encode().map_err(io::Error::other)?),
    ])
}

/// Writes a section of pages; returns its digest.
fn pages(
    out: &mut impl Write,
    section: Section,
    file: &File,
    regions: &[(u64, u64)],
) -> Result<[u8; 32], SnapshotError> {
    let mut extents: Vec<(u32, Run)> = Vec::new();
    for (index, (offset, length)) in (0_u32..).zip(regions) {
        let runs = sparse::runs(file, *offset, *length)?;
        extents.extend(runs.into_iter().map(|run| (index, run)));
    }
    let place = |index: u32, run: Run| {
        let (offset, length) = regions.get(index as usize).copied().unwrap_or_default();
        let (start, count) = run.bytes(length);
        (offset + start, count)
    };
    let content: u64 = extents.iter().map(|(index, run)| place(*index, *run).1).sum();
    let list = 4 + extents.len() * EXTENT_BYTES;
    let mut head = Vec::with_capacity(list);
    head.extend((extents.len() as u32).to_le_bytes());
    for (index, run) in &extents {
        head.extend([*index, run.first, run.count].iter().flat_map(|number| number.to_le_bytes()));
    }
    let mut sink = Sink::begin(out, section, list as u64 + content)?;
    sink.put(&head)?;
    for (index, run) in extents {
        sparse::for_each_piece(file, place(index, run), |piece| sink.put(piece))?;
    }
    sink.end()
}

/// A section being written.
struct Sink<'a, W> {
    out: &'a mut W,
    hash: Sha256,
}

impl<'a, W: Write> Sink<'a, W> {
    fn begin(out: &'a mut W, section: Section, length: u64) -> Result<Self, SnapshotError> {
        let mut sink = Self { out, hash: Sha256::new() };
        sink.put(&section_head(section, length))?;
        Ok(sink)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.hash.update(bytes);
        self.out.write_all(bytes).map_err(SnapshotError::from)
    }

    fn end(self) -> Result<[u8; 32], SnapshotError> {
        let digest: [u8; DIGEST_BYTES] = self.hash.finalize().into();
        self.out.write_all(&digest)?;
        Ok(digest)
    }
}
