//! Files that are not what they were, and files that never were snapshots.

use std::io::{self, Read};

use proptest::prelude::*;

use super::*;

/// What an error calls the part of the file that is wrong.
fn named(error: &SnapshotError) -> &'static str {
    match error {
        SnapshotError::Truncated { section }
        | SnapshotError::Damaged { section, .. }
        | SnapshotError::TooLarge { section, .. } => section,
        SnapshotError::NotASnapshot | SnapshotError::Version { .. } => "header",
        other => panic!("{other}"),
    }
}

#[test]
fn one_flipped_bit_anywhere_is_refused_by_name() {
    let bytes = bytes_of(&golden());
    for (name, range) in layout(&bytes) {
        let inside = range.len();
        // Everything at both ends, where lengths and checksums are, and a sample of the rest.
        let edges = (0..inside.min(40)).chain(inside.saturating_sub(40)..inside);
        for at in edges.chain((0..inside).step_by(1 + inside / 50)) {
            let mut damaged = bytes.clone();
            damaged[range.start + at] ^= 1 << (at % 8);
            let error = error(&damaged);
            assert_eq!(named(&error), name, "byte {at} of {name}: {error}");
            if name != "header" {
                assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
            }
        }
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let bytes = bytes_of(&golden());
    let parts = layout(&bytes);
    let edges = parts.iter().flat_map(|(_, range)| {
        (range.start..range.start + 20).chain(range.end.saturating_sub(34)..range.end)
    });
    for length in edges.chain((0..bytes.len()).step_by(997)).filter(|at| *at < bytes.len()) {
        let error = error(&bytes[..length]);
        let (name, _) = parts.iter().find(|(_, range)| range.contains(&length)).unwrap();
        assert!(matches!(error, SnapshotError::Truncated { .. }), "{length}: {error}");
        assert_eq!(named(&error), *name, "{length}: {error}");
    }
    // A file that has become shorter since its length was asked for.
    let shorter = Cursor::new(&bytes[..bytes.len() - 100]);
    let result = read::read(shorter, bytes.len() as u64, None);
    assert!(matches!(result, Err(SnapshotError::Truncated { section: "disk" })));
    let longer = [bytes.as_slice(), b"x"].concat();
    assert_eq!(named(&error(&longer)), "end");
}

#[test]
fn another_version_is_refused_by_version() {
    let mut bytes = bytes_of(&golden());
    // Versions 1 and 2 had other sections, and were bound to less of their host.
    for version in [1, 2, 4] {
        bytes[8] = version;
        let error = error(&bytes);
        let snapshot = u32::from(version);
        assert!(matches!(error, SnapshotError::Version { snapshot: v } if v == snapshot));
        assert!(error.to_string().contains(&format!("version {version}")));
    }
}

#[test]
fn sections_in_another_order_are_refused() {
    let bytes = bytes_of(&golden());
    let parts = layout(&bytes);
    let part = |index: usize| &bytes[parts[index].1.clone()];
    let swapped = [part(0), part(1), part(3), part(2), part(4), part(5), part(6), part(7)].concat();
    assert_eq!(named(&error(&swapped)), "vcpus");
}

#[test]
fn parts_of_two_snapshots_do_not_make_one() {
    let one = bytes_of(&golden());
    // Another kernel, so that memory differs however far the guests have come.
    let kernel = Arc::new(crate::micro::kernel(7).unwrap());
    let other = bytes_of(&captured(MachineConfig { kernel, ..config() }));
    let mine = layout(&one);
    let others = layout(&other);
    let mut mixed = one[..mine[5].1.start].to_vec();
    mixed.extend(&other[others[5].1.clone()]);
    mixed.extend(&one[mine[5].1.end..]);
    assert_eq!(named(&error(&mixed)), "end");
}

#[test]
fn another_kernel_rootfs_command_line_or_size_is_refused_by_name() {
    let bytes = bytes_of(&golden());
    let config = config();
    let good = Expectation {
        kernel_sha256: Some(config.kernel.sha256()),
        rootfs_sha256: Some(config.disk.unwrap().sha256().unwrap()),
        cmdline: Some("quiet".into()),
        memory_mib: Some(64),
        vcpus: Some(1),
    };
    read_bytes(&bytes, &good).unwrap();
    let bad = [
        ("kernel", Expectation { kernel_sha256: Some([1; 32]), ..good.clone() }),
        ("rootfs", Expectation { rootfs_sha256: Some([1; 32]), ..good.clone() }),
        ("command line", Expectation { cmdline: Some("quiet ".into()), ..good.clone() }),
        ("memory size in MiB", Expectation { memory_mib: Some(128), ..good.clone() }),
        ("number of vCPUs", Expectation { vcpus: Some(2), ..good }),
    ];
    for (name, expect) in bad {
        match read_bytes(&bytes, &expect) {
            Err(SnapshotError::Mismatch { what, .. }) => assert_eq!(what, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// The state as if it had been captured on a host with another template, or by another program.
fn moved(change: impl FnOnce(&mut Golden)) -> SnapshotError {
    let bytes = bytes_of(&golden());
    let mut loaded = read_bytes(&bytes, &Expectation::default()).unwrap();
    change(&mut loaded);
    error(&bytes_of(&loaded))
}

#[test]
fn another_processor_is_refused_by_name_and_can_be_looked_at() {
    let with_leaf = |function, change: fn(&mut [u32; 4])| {
        moved(|golden| golden.cpuid = Arc::new(golden.cpuid.with_leaf(function, change)))
    };
    let error = with_leaf(1, |registers| registers[0] ^= 1 << 4);
    assert!(error.to_string().contains("another processor"), "{error}");
    let error = with_leaf(7, |registers| registers[1] ^= 1 << 16);
    assert!(error.to_string().contains("CPUID leaf 0x7.0"), "{error}");
    let error = moved(|golden| golden.made_by = "0.0.0".into());
    assert!(error.to_string().contains("version of this program"), "{error}");
}

#[test]
fn states_that_contradict_themselves_are_refused() {
    let error = moved(|golden| golden.origin.memory_mib = 9000);
    assert_eq!(named(&error), "header");
    let error = moved(|golden| golden.origin.console_bytes = usize::MAX);
    assert_eq!(named(&error), "header");
    let error = moved(|golden| golden.vcpus.clear());
    assert_eq!(named(&error), "vcpus");
    let error = moved(|golden| golden.vm.mislabel_io_apic());
    assert_eq!(named(&error), "machine");
    let error = moved(|golden| golden.devices.remove("block"));
    assert_eq!(named(&error), "devices");
    let error = moved(|golden| golden.origin.guest_cid = 4);
    assert_eq!(named(&error), "devices");
    let error = moved(|golden| golden.devices.remove("entropy"));
    assert_eq!(named(&error), "devices");
}

/// Writes correct checksums over whatever is there, as an attacker would.
fn seal_again(bytes: &mut [u8]) {
    let parts = layout(bytes);
    let mut digests = Vec::new();
    for (_, range) in &parts[..parts.len() - 1] {
        let digest_at = range.end - DIGEST_BYTES;
        let digest = format::sha256([&bytes[range.start..digest_at]]);
        bytes[digest_at..range.end].copy_from_slice(&digest);
        digests.extend(digest);
    }
    let end = bytes.len() - DIGEST_BYTES;
    let digest = format::sha256([digests.as_slice()]);
    bytes[end..].copy_from_slice(&digest);
}

/// Hands out a file that is all claims, and counts what is read.
struct Claims(u64);

impl Read for Claims {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 += buffer.len() as u64;
        buffer.fill(0xff);
        Ok(buffer.len())
    }
}

#[test]
fn claims_get_no_memory() {
    let mut claims = Claims(0);
    assert!(read::read(&mut claims, u64::MAX, None).is_err());
    assert!(claims.0 < 100);
    let bytes = bytes_of(&golden());
    for (name, range) in layout(&bytes).into_iter().skip(1).take(6) {
        for length in [u64::MAX, 1 << 62, 500 << 20, bytes.len() as u64] {
            let mut claiming = bytes.clone();
            claiming[range.start + 16..range.start + 24].copy_from_slice(&length.to_le_bytes());
            let error = error(&claiming);
            assert_eq!(named(&error), name, "{error}");
        }
        if matches!(name, "memory" | "disk") {
            let mut claiming = bytes.clone();
            claiming[range.start + 24..range.start + 28].copy_from_slice(&[0xff; 4]);
            assert_eq!(named(&error(&claiming)), name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut after_a_good_start = format::preamble(40).to_vec();
        after_a_good_start.extend(&bytes);
        error(&bytes);
        error(&after_a_good_start);
    }

    /// Checksums are correct: what is read may be nonsense, but it is read, forked and looked at
    /// without a panic.
    #[test]
    fn mutated_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        part in 0_usize..7,
    ) {
        let mut bytes = bytes_of(&golden());
        let (_, range) = layout(&bytes)[part].clone();
        let skip = if part == 0 { PREAMBLE_BYTES } else { SECTION_HEAD_BYTES };
        let content = range.start + skip..range.end - DIGEST_BYTES;
        // Of pages, only the list of extents can be wrong.
        let content = content.start..content.end.min(content.start + 9000);
        for (index, value) in changes {
            let at = content.start + index.index(content.len());
            bytes[at] = value;
        }
        seal_again(&mut bytes);
        let length = bytes.len() as u64;
        if let Ok(loaded) = read::read(Cursor::new(&bytes), length, None) {
            let golden = Arc::new(loaded.golden);
            golden.hash().unwrap();
            Diff::between(&super::golden(), &golden).unwrap();
            if let Ok(machine) = Machine::fork(&golden) {
                let _ = machine.differences();
            }
        }
    }
}
