//! Reading a snapshot, without believing any of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use super::expect::{Expectation, check_host};
use super::format::{
    DIGEST_BYTES, EXTENT_BYTES, FileHeader, MAGIC, MAX_HEADER, PAGE, PREAMBLE_BYTES, Processor,
    SECTION_HEAD_BYTES, Section, section_head, sha256,
};
use super::sparse::Run;
use super::version::VERSION;
use super::{BUFFER_BYTES, SnapshotError};
use crate::arch::{CpuidTemplate, VcpuImage, VcpuState, VmState, layout};
use crate::devices::block::DiskImage;
use crate::devices::{DEVICES, DeviceStates, MachineShape};
use crate::memory::{GoldenMemory, GoldenRegion, SealedMemory};
use crate::snapshot::Golden;

/// What a file holds.
pub struct Loaded {
    pub golden: Golden,
    pub header: FileHeader,
    /// Sections with the length of their content.
    pub sections: Vec<(Section, u64)>,
    pub file_bytes: u64,
}

/// Reads a whole snapshot of `length` bytes. Without an expectation it is only good for looking
/// at: it may be of another host.
pub fn read(
    from: impl Read,
    length: u64,
    expect: Option<&Expectation>,
) -> Result<Loaded, SnapshotError> {
    let mut source = CheckedReader { from, left: length, section: "header", all: Sha256::new() };
    let header = source.header()?;
    if let Some(expect) = expect {
        expect.check(&header)?;
    }
    let mut sections = Vec::new();
    let cpuid = {
        let content = source.small(Section::Cpuid, &mut sections)?;
        cpuid(&content, &header)?
    };
    if expect.is_some() {
        check_host(&cpuid, &header.host)?;
    }
    let vcpus = vcpus(&source.small(Section::Vcpus, &mut sections)?, &header)?;
    let vm = machine(&source.small(Section::Machine, &mut sections)?)?;
    let devices = devices(&source.small(Section::Devices, &mut sections)?, &header)?;
    let memory = source.memory(&header, &mut sections)?;
    let disk = source.disk(&header, &mut sections)?;
    source.end()?;
    let golden = Golden {
        memory,
        vcpus,
        vm,
        devices,
        disk,
        cpuid: Arc::new(cpuid),
        origin: header.origin.clone(),
        tsc_offset_works: header.tsc_offset_works,
        host: header.host.clone(),
        made_by: header.vmm_version.clone(),
        hash: OnceLock::new(),
        hot_pages: OnceLock::new(),
    };
    Ok(Loaded { golden, header, sections, file_bytes: length })
}

fn cpuid(content: &[u8], header: &FileHeader) -> Result<CpuidTemplate, SnapshotError> {
    let cpuid: CpuidTemplate = Section::Cpuid.decode(content)?;
    let agree = cpuid.vcpus() == header.vcpus
        && cpuid.sha256() == header.cpuid_sha256
        && Processor::of(&cpuid) == header.processor;
    if !agree || cpuid.for_vcpu(0).is_err() {
        return Err(Section::Cpuid.damaged("it does not belong to this header"));
    }
    Ok(cpuid)
}

fn vcpus(content: &[u8], header: &FileHeader) -> Result<Vec<VcpuImage>, SnapshotError> {
    let states: Vec<VcpuState> = Section::Vcpus.decode(content)?;
    if states.len() != usize::from(header.vcpus) {
        return Err(Section::Vcpus.damaged("it does not belong to this header"));
    }
    for state in &states {
        state.check().map_err(|reason| Section::Vcpus.damaged(reason))?;
    }
    Ok(states.into_iter().map(VcpuImage::new).collect::<Result<_, _>>()?)
}

fn machine(content: &[u8]) -> Result<VmState, SnapshotError> {
    let vm: VmState = Section::Machine.decode(content)?;
    vm.check().map_err(|reason| Section::Machine.damaged(reason))?;
    Ok(vm)
}

fn devices(content: &[u8], header: &FileHeader) -> Result<DeviceStates, SnapshotError> {
    let shape =
        MachineShape { has_disk: header.disk.is_some(), guest_cid: header.origin.guest_cid };
    DeviceStates::decode(DEVICES, shape, content)
        .map_err(|e| Section::Devices.damaged(e.to_string()))
}

/// The rest of the file.
struct CheckedReader<R> {
    from: R,
    left: u64,
    /// Where in the file this is, for errors.
    section: &'static str,
    /// Over all digests so far.
    all: Sha256,
}

impl<R: Read> CheckedReader<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        let truncated = SnapshotError::Truncated { section: self.section };
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else { return Err(truncated) };
        match self.from.read_exact(bytes) {
            Ok(()) => self.left = left,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(truncated),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// `length` bytes, which the file has to have before they get any memory.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, SnapshotError> {
        if length > self.left {
            return Err(SnapshotError::Truncated { section: self.section });
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a stored digest and compares it.
    fn compare(&mut self, computed: [u8; 32]) -> Result<(), SnapshotError> {
        if self.array::<DIGEST_BYTES>()? == computed {
            return Ok(());
        }
        let reason = "its checksum is wrong".to_owned();
        Err(SnapshotError::Damaged { section: self.section, reason })
    }

    fn header(&mut self) -> Result<FileHeader, SnapshotError> {
        let preamble = self.array::<PREAMBLE_BYTES>()?;
        let [magic @ .., v0, v1, v2, v3, l0, l1, l2, l3] = preamble;
        if magic != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        let snapshot = u32::from_le_bytes([v0, v1, v2, v3]);
        if snapshot != VERSION {
            return Err(SnapshotError::Version { snapshot });
        }
        let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
        if length > MAX_HEADER {
            let section = self.section;
            return Err(SnapshotError::TooLarge { section, bytes: length, limit: MAX_HEADER });
        }
        let content = self.bytes(length)?;
        let digest = sha256([preamble.as_slice(), &content]);
        self.compare(digest)?;
        self.all.update(digest);
        let damaged = |reason: String| SnapshotError::Damaged { section: "header", reason };
        let header: FileHeader = match postcard::take_from_bytes(&content) {
            Ok((header, [])) => header,
            Ok(_) => return Err(damaged("there is more in it than belongs there".into())),
            Err(e) => return Err(damaged(e.to_string())),
        };
        header.check()?;
        Ok(header)
    }

    /// Begins a section; returns its reader.
    fn begin(
        &mut self,
        section: Section,
        sections: &mut Vec<(Section, u64)>,
    ) -> Result<Content<'_, R>, SnapshotError> {
        self.section = section.name();
        let head = self.array::<SECTION_HEAD_BYTES>()?;
        let [kind @ .., v0, v1, v2, v3, _, _, _, _, l0, l1, l2, l3, l4, l5, l6, l7] = head;
        let version = u32::from_le_bytes([v0, v1, v2, v3]);
        let length = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        if kind != section.kind() {
            let found = String::from_utf8_lossy(&kind);
            let found = found.trim_end_matches('\0').escape_default();
            return Err(section.damaged(format!("section `{found}` is in its place")));
        }
        if version != section.version() {
            let here = section.version();
            let reason = format!("it has version {version}, this program reads version {here}");
            return Err(section.damaged(reason));
        }
        if head != section_head(section, length) {
            return Err(section.damaged("bytes of its head that have to be zero are not"));
        }
        if length > section.limit() {
            let (section, limit) = (section.name(), section.limit());
            return Err(SnapshotError::TooLarge { section, bytes: length, limit });
        }
        if length > self.left {
            return Err(SnapshotError::Truncated { section: section.name() });
        }
        sections.push((section, length));
        let mut hash = Sha256::new();
        hash.update(head);
        Ok(Content { source: self, section, left: length, hash })
    }

    /// A section that is decoded as a whole, already compared with its checksum.
    fn small(
        &mut self,
        section: Section,
        sections: &mut Vec<(Section, u64)>,
    ) -> Result<Vec<u8>, SnapshotError> {
        let mut content = self.begin(section, sections)?;
        let mut bytes = vec![0; content.left as usize];
        content.fill(&mut bytes)?;
        content.end()?;
        Ok(bytes)
    }

    fn memory(
        &mut self,
        header: &FileHeader,
        sections: &mut Vec<(Section, u64)>,
    ) -> Result<GoldenMemory, SnapshotError> {
        let mut regions = Vec::new();
        let mut offset = 0;
        for (start, length) in layout::ram_ranges(u64::from(header.origin.memory_mib) << 20) {
            let length = length as usize;
            regions.push(GoldenRegion { start, offset, length });
            offset += length;
        }
        let places: Vec<_> =
            regions.iter().map(|region| (region.offset as u64, region.length as u64)).collect();
        let mut content = self.begin(Section::Memory, sections)?;
        let extents = content.extents(&places)?;
        let sealed = SealedMemory::create("golden", offset, |file| content.copy(&extents, file))?;
        content.end()?;
        Ok(GoldenMemory::over(sealed, regions)?)
    }

    fn disk(
        &mut self,
        header: &FileHeader,
        sections: &mut Vec<(Section, u64)>,
    ) -> Result<Option<Arc<DiskImage>>, SnapshotError> {
        let Some((_, length)) = header.disk else { return Ok(None) };
        let mut content = self.begin(Section::Disk, sections)?;
        let extents = content.extents(&[(0, length)])?;
        let disk = DiskImage::seal(length, |file| content.copy(&extents, file))?;
        content.end()?;
        Ok(Some(Arc::new(disk)))
    }

    fn end(mut self) -> Result<(), SnapshotError> {
        self.section = "end";
        let digest = std::mem::take(&mut self.all).finalize().into();
        self.compare(digest)?;
        if self.left == 0 {
            return Ok(());
        }
        let reason = "bytes follow that do not belong to it".to_owned();
        Err(SnapshotError::Damaged { section: "end", reason })
    }
}

/// The content of a section being read.
struct Content<'a, R> {
    source: &'a mut CheckedReader<R>,
    section: Section,
    left: u64,
    hash: Sha256,
}

impl<R: Read> Content<'_, R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| self.section.damaged("it ends too early"))?;
        self.source.fill(bytes)?;
        self.hash.update(&*bytes);
        Ok(())
    }

    /// The list of extents, as offset and length in sealed memory whose regions have `places`. They
    /// are as long together as the rest of the section.
    fn extents(&mut self, places: &[(u64, u64)]) -> Result<Vec<(u64, u64)>, SnapshotError> {
        let section = self.section;
        let damaged = |reason| Err(section.damaged(reason));
        let mut count = [0; 4];
        self.fill(&mut count)?;
        let list = u64::from(u32::from_le_bytes(count)) * EXTENT_BYTES as u64;
        if list > self.left {
            return damaged("more extents than fit in it");
        }
        let mut bytes = vec![0; list as usize];
        self.fill(&mut bytes)?;
        let mut extents = Vec::with_capacity(bytes.len() / EXTENT_BYTES);
        let mut total = 0;
        let mut free = 0;
        for extent in bytes.as_chunks::<EXTENT_BYTES>().0 {
            let [r0, r1, r2, r3, f0, f1, f2, f3, c0, c1, c2, c3] = *extent;
            let region = u32::from_le_bytes([r0, r1, r2, r3]);
            let run = Run {
                first: u32::from_le_bytes([f0, f1, f2, f3]),
                count: u32::from_le_bytes([c0, c1, c2, c3]),
            };
            let Some((offset, length)) = places.get(region as usize).copied() else {
                return damaged("an extent in a region that is not there");
            };
            let pages = length.div_ceil(PAGE as u64);
            let end = u64::from(run.first) + u64::from(run.count);
            if run.count == 0 || end > pages {
                return damaged("an extent that does not fit its region");
            }
            let (start, count) = run.bytes(length);
            if offset + start < free {
                return damaged("extents that overlap or go back");
            }
            free = offset + start + count;
            total += count;
            extents.push((offset + start, count));
        }
        if total != self.left {
            return damaged("its extents and its length disagree");
        }
        Ok(extents)
    }

    /// Copies the pages of all extents to their places in `file`.
    fn copy(&mut self, extents: &[(u64, u64)], file: &File) -> Result<(), SnapshotError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        for (offset, count) in extents {
            let mut done = 0;
            while done < *count {
                let length = (count - done).min(BUFFER_BYTES as u64) as usize;
                let piece = buffer.get_mut(..length).unwrap_or_default();
                self.fill(piece)?;
                file.write_all_at(piece, offset + done)?;
                done += length as u64;
            }
        }
        Ok(())
    }

    /// Compares with the checksum.
    fn end(self) -> Result<(), SnapshotError> {
        if self.left > 0 {
            return Err(self.section.damaged("it is longer than what is in it"));
        }
        let digest = self.hash.finalize().into();
        self.source.compare(digest)?;
        self.source.all.update(digest);
        Ok(())
    }
}
