//! Takes the air out of a kernel: the linker places segments at multiples of 2 MiB in the file, and
//! what lies between them is zeros. ELF asks only that offset and address agree within a page
//! (System V ABI, program header, `p_align`).

use anyhow::{Context, Result, ensure};

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PAGE: usize = 0x1000;
const LOAD: u32 = 1;
/// Offsets of the ELF header's fields (`Elf64_Ehdr`).
const E_PHOFF: usize = 32;
const E_SHOFF: usize = 40;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;
/// Size, number and names of section headers follow one another to the end of the header.
const E_SHENTSIZE: usize = 58;

/// One program header (`Elf64_Phdr`).
#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: usize,
    address: u64,
    physical: u64,
    file_bytes: usize,
    memory_bytes: u64,
    align: u64,
}

/// The same segments and entry point with nothing in between, and without sections. What a loader
/// puts into memory is the same, byte for byte.
pub fn pack(elf: &[u8]) -> Result<Vec<u8>> {
    let segments = segments(elf).context("the kernel's program headers")?;
    let mut packed = elf.get(..HEADER_BYTES).context("too short")?.to_vec();
    packed[E_PHOFF..E_PHOFF + 8].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
    packed[E_SHOFF..E_SHOFF + 8].fill(0);
    packed[E_SHENTSIZE..].fill(0);
    packed.resize(HEADER_BYTES + segments.len() * PROGRAM_HEADER_BYTES, 0);

    let mut moved: Vec<(Segment, usize)> = Vec::new();
    for segment in segments.iter().filter(|segment| segment.kind == LOAD) {
        let within = usize::try_from(segment.address % PAGE as u64)?;
        let offset = packed.len().next_multiple_of(PAGE) + within;
        packed.resize(offset, 0);
        packed.extend_from_slice(content(elf, segment)?);
        let align = segment.align.min(PAGE as u64);
        moved.push((Segment { offset, align, ..*segment }, segment.offset));
    }
    for (index, segment) in segments.iter().enumerate() {
        let segment = if segment.kind == LOAD {
            let this = |(_, from): &&(Segment, usize)| *from == segment.offset;
            moved.iter().find(this).context("a segment is lost")?.0
        } else {
            inside(segment, &moved)?
        };
        let at = HEADER_BYTES + index * PROGRAM_HEADER_BYTES;
        packed[at..at + PROGRAM_HEADER_BYTES].copy_from_slice(&segment.to_bytes());
    }
    Ok(packed)
}

/// Where a segment that describes a part of a loaded one is now.
fn inside(segment: &Segment, moved: &[(Segment, usize)]) -> Result<Segment> {
    if segment.file_bytes == 0 {
        return Ok(Segment { offset: 0, ..*segment });
    }
    let around = |(load, from): &&(Segment, usize)| {
        let end = segment.offset.checked_add(segment.file_bytes);
        *from <= segment.offset && end.is_some_and(|end| end <= from + load.file_bytes)
    };
    let (load, from) = moved.iter().find(around).context("a segment outside of all loaded ones")?;
    Ok(Segment { offset: load.offset + (segment.offset - from), ..*segment })
}

fn content<'e>(elf: &'e [u8], segment: &Segment) -> Result<&'e [u8]> {
    let end = segment.offset.checked_add(segment.file_bytes).context("a segment without end")?;
    elf.get(segment.offset..end).context("a segment beyond the file's end")
}

fn segments(elf: &[u8]) -> Result<Vec<Segment>> {
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "no 64-bit little-endian ELF file");
    let first = usize::try_from(u64_at(elf, E_PHOFF)?)?;
    ensure!(usize::from(u16_at(elf, E_PHENTSIZE)?) == PROGRAM_HEADER_BYTES, "of unknown size");
    (0..usize::from(u16_at(elf, E_PHNUM)?))
        .map(|index| {
            let at = first + index * PROGRAM_HEADER_BYTES;
            Ok(Segment {
                kind: u32_at(elf, at)?,
                flags: u32_at(elf, at + 4)?,
                offset: usize::try_from(u64_at(elf, at + 8)?)?,
                address: u64_at(elf, at + 16)?,
                physical: u64_at(elf, at + 24)?,
                file_bytes: usize::try_from(u64_at(elf, at + 32)?)?,
                memory_bytes: u64_at(elf, at + 40)?,
                align: u64_at(elf, at + 48)?,
            })
        })
        .collect()
}

impl Segment {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PROGRAM_HEADER_BYTES);
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        for field in [
            self.offset as u64,
            self.address,
            self.physical,
            self.file_bytes as u64,
            self.memory_bytes,
            self.align,
        ] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().context("the file ends too early")
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(field(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(field(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(field(bytes, at)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What a loader puts into memory, without zeros, and where its notes are.
    fn loaded(elf: &[u8]) -> (BTreeMap<u64, u8>, Vec<u8>) {
        let (mut memory, mut notes) = (BTreeMap::new(), Vec::new());
        for segment in segments(elf).unwrap() {
            let bytes = content(elf, &segment).unwrap();
            assert!(segment.file_bytes as u64 <= segment.memory_bytes);
            if segment.kind == LOAD {
                let filled = (segment.physical..).zip(bytes.iter().copied());
                memory.extend(filled.filter(|(_, byte)| *byte != 0));
                assert_eq!(segment.offset % PAGE, (segment.address % PAGE as u64) as usize);
            } else {
                notes = bytes.to_vec();
            }
        }
        (memory, notes)
    }

    fn airy() -> Vec<u8> {
        let segments = [
            (LOAD, 0x20_0000, 0xffff_0000_0010_0000, 0x10_0000, 0x3000, 0x3000),
            (LOAD, 0x40_0123, 0xffff_0000_0020_0123, 0x20_0123, 0x10, 0x9000),
            (LOAD, 0x60_0000, 0, 0x30_0000, 0x40, 0x40),
            (4, 0x20_1010, 0xffff_0000_0010_1010, 0x10_1010, 0x18, 0x18),
        ];
        let mut elf = vec![0; 0x60_0040];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[24..32].copy_from_slice(&0x10_0123_u64.to_le_bytes());
        elf[E_PHOFF] = 64;
        elf[E_SHOFF + 1] = 7;
        elf[E_PHENTSIZE] = 56;
        elf[E_PHNUM] = 4;
        elf[E_SHENTSIZE] = 64;
        for (index, (kind, offset, address, physical, file_bytes, memory_bytes)) in
            segments.into_iter().enumerate()
        {
            let align = 0x20_0000;
            let segment = Segment {
                kind,
                flags: 7,
                offset,
                address,
                physical,
                file_bytes,
                memory_bytes,
                align,
            };
            let at = HEADER_BYTES + index * PROGRAM_HEADER_BYTES;
            elf[at..at + PROGRAM_HEADER_BYTES].copy_from_slice(&segment.to_bytes());
        }
        for (index, byte) in elf[0x20_0000..0x20_2000].iter_mut().enumerate() {
            *byte = (index % 251) as u8;
        }
        elf[0x40_0123..0x40_0133].fill(9);
        elf
    }

    #[test]
    fn memory_is_the_same_and_the_file_is_small() {
        let elf = airy();
        let packed = pack(&elf).unwrap();
        assert!(packed.len() < 0x6000, "{:#x}", packed.len());
        assert_eq!(loaded(&packed), loaded(&elf));
        assert_eq!(packed[..E_PHOFF], elf[..E_PHOFF]);
        assert_eq!(packed[E_SHOFF..E_SHOFF + 8], [0; 8]);
    }

    #[test]
    fn packing_again_changes_nothing() {
        let packed = pack(&airy()).unwrap();
        assert_eq!(pack(&packed).unwrap(), packed);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(pack(b"").is_err());
        assert!(pack(&[0; 200]).is_err());
        let mut cut = airy();
        cut.truncate(0x40_0000);
        assert!(pack(&cut).is_err());
    }
}
