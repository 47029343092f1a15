use super::*;

/// A field and something that makes it wrong.
type Change = (&'static str, fn(&mut BaselineRecord));

pub fn hash(of: &str) -> String {
    format!("sha256:{}", hex_of_bytes(&Sha256::digest(of)))
}

pub fn record(name: &str) -> BaselineRecord {
    BaselineRecord {
        version: VERSION,
        measured_at: Timestamp::from_millis(1_767_323_046_000),
        snapshot: format!("/state/snapshots/{name}.snapshot").into(),
        vmm_version: "0.1.0".to_owned(),
        kernel_sha256: hash("kernel"),
        rootfs_sha256: hash("rootfs"),
        cmdline: "quiet".to_owned(),
        memory_mib: 128,
        vcpus: 1,
        cpu_template: hash("cpuid"),
        disk_bytes: 8 << 20,
        golden_hash: hash(name),
        fs_hash: hash("disk"),
        open_fd_count: 7,
        expected_vmm_api_state: RUNNING.to_owned(),
    }
}

#[test]
fn every_field_that_differs_is_named_and_time_and_place_do_not_count() {
    let installed = record("one");
    let mut found = installed.clone();
    found.measured_at = Timestamp::from_millis(5);
    found.snapshot = "/elsewhere".into();
    assert_eq!(check(&installed, &found), Ok(()));

    let changes: [Change; 12] = [
        ("vmm_version", |r| r.vmm_version = "2".into()),
        ("kernel_sha256", |r| r.kernel_sha256 = hash("x")),
        ("rootfs_sha256", |r| r.rootfs_sha256 = hash("x")),
        ("cmdline", |r| r.cmdline = "loud".into()),
        ("memory_mib", |r| r.memory_mib = 256),
        ("vcpus", |r| r.vcpus = 2),
        ("cpu_template", |r| r.cpu_template = hash("x")),
        ("disk_bytes", |r| r.disk_bytes = 1),
        ("golden_hash", |r| r.golden_hash = hash("x")),
        ("fs_hash", |r| r.fs_hash = hash("x")),
        ("open_fd_count", |r| r.open_fd_count = 8),
        ("expected_vmm_api_state", |r| r.expected_vmm_api_state = "error".into()),
    ];
    for (field, change) in changes {
        let mut found = installed.clone();
        change(&mut found);
        let mismatch = check(&installed, &found).unwrap_err();
        assert_eq!(mismatch.fields.iter().map(|f| f.field).collect::<Vec<_>>(), [field]);
        assert!(mismatch.to_string().contains("install` again"), "{mismatch}");
    }
    let mut found = installed.clone();
    (found.vcpus, found.memory_mib) = (2, 256);
    assert_eq!(check(&installed, &found).unwrap_err().fields.len(), 2);
}

#[test]
fn hashes_anything_could_have_are_refused() {
    record("one").validate().unwrap();
    let zeros = format!("sha256:{}", "0".repeat(64));
    // Computed elsewhere: SHA-256 of nothing and of an empty line.
    let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let line = "sha256:01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b";
    let blocks = format!("sha256:{}", hex_of_bytes(&tree_of_zeros((8 << 20) / BLOCK_BYTES as u64)));
    let upper = hash("disk").to_uppercase().replace("SHA256", "sha256");
    for bad in [&zeros, nothing, line, &blocks, &upper, "", "sha256:", "none"] {
        for set in [
            |r: &mut BaselineRecord, h: &str| r.fs_hash = h.into(),
            |r: &mut BaselineRecord, h: &str| r.golden_hash = h.into(),
            |r: &mut BaselineRecord, h: &str| r.kernel_sha256 = h.into(),
            |r: &mut BaselineRecord, h: &str| r.rootfs_sha256 = h.into(),
            |r: &mut BaselineRecord, h: &str| r.cpu_template = h.into(),
        ] {
            let mut wrong = record("one");
            set(&mut wrong, bad);
            assert!(wrong.validate().is_err(), "{bad} was taken");
        }
    }
}

#[test]
fn incomplete_records_are_refused() {
    let changes: [Change; 9] = [
        ("version", |r| r.version = 2),
        ("snapshot", |r| r.snapshot = "".into()),
        ("vmm_version", |r| r.vmm_version.clear()),
        ("cmdline", |r| r.cmdline = " ".into()),
        ("memory_mib", |r| r.memory_mib = 0),
        ("vcpus", |r| r.vcpus = 0),
        ("disk_bytes", |r| r.disk_bytes = 0),
        ("open_fd_count", |r| r.open_fd_count = -1),
        ("expected_vmm_api_state", |r| r.expected_vmm_api_state.clear()),
    ];
    for (field, change) in changes {
        let mut wrong = record("one");
        change(&mut wrong);
        assert_eq!(wrong.validate().unwrap_err().field, field);
    }
}

#[test]
fn a_tree_of_zeros_is_the_one_that_is_computed_block_by_block() {
    fn slow(leaves: &[[u8; 32]]) -> [u8; 32] {
        if let [leaf] = leaves {
            return *leaf;
        }
        // The largest power of two below the number of leaves.
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        let (left, right) = (slow(left), slow(right));
        Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
    }
    let leaf: [u8; 32] = Sha256::new().chain_update([0]).chain_update([0; 4096]).finalize().into();
    for blocks in 1..40_usize {
        assert_eq!(tree_of_zeros(blocks as u64), slow(&vec![leaf; blocks]), "{blocks}");
    }
}
