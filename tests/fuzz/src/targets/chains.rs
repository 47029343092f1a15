//! Devices against a driver that does anything. First byte, lowest bit: event indices.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use vmm::fuzzing::{BLOCK_BYTES, Block, Overlay, Rng, VirtioDevice, VsockDevice};
use vmm::{DiskImage, VsockHost};

use crate::rig::Rig;
use crate::script::Script;

/// Rings, and as many buffers as an input can name by their offsets.
const RAM_BYTES: u64 = 0x2_2000;
const DISK_BLOCKS: usize = 8;
/// More than this one input says nothing new.
const MOST_ACTS: usize = 200;
const CID: u64 = 3;
const PORT: u32 = 1024;

/// Kept from one input to the next: mapping it anew takes longer than most inputs do.
struct Disk {
    content: Vec<u8>,
    device: Arc<Mutex<Block>>,
}

impl Disk {
    fn new() -> Self {
        let content: Vec<u8> = (0..DISK_BLOCKS * BLOCK_BYTES).map(|at| (at / 512) as u8).collect();
        let image = Arc::new(DiskImage::from_bytes(&content).unwrap());
        let device = Arc::new(Mutex::new(Block::new(Overlay::new(image).unwrap())));
        Self { content, device }
    }
}

pub fn block(input: &[u8]) {
    static DISK: LazyLock<Disk> = LazyLock::new(Disk::new);
    let Disk { content, device } = &*DISK;
    drive(Arc::clone(device) as _, &[16], input, || {}).end();
    let mut device = device.lock().unwrap();
    device.reset();
    // The disk is what the device says it wrote, and what it did not write is the image's.
    let overlay = device.overlay_mut();
    for (index, block) in content.chunks(BLOCK_BYTES).enumerate() {
        if overlay.is_dirty(index) {
            assert_eq!(overlay.damage(index).unwrap(), None);
        } else {
            assert!(overlay.content(index) == block, "block {index} was changed, and no record");
        }
    }
    assert_eq!(overlay.take_refused(), []);
    overlay.discard().unwrap();
    assert!(overlay.read(0..overlay.length()) == Some(content), "a discard leaves something");
}

pub fn rng(input: &[u8]) {
    drive(Arc::new(Mutex::new(Rng::new())), &[16], input, || {}).end();
}

pub fn vsock(input: &[u8]) {
    let (device, host) = VsockDevice::new(CID);
    let listener = host.listen(PORT).unwrap();
    let mut streams = Vec::new();
    let rig = drive(Arc::new(Mutex::new(device)), &[16, 16, 8], input, || {
        streams.extend(listener.accept(Some(Duration::ZERO)));
        assert!(host.is_sound(CID), "{:?}", host.capture());
        let (connections, bytes) = host.size();
        assert!(connections <= VsockHost::MAX_CONNECTIONS);
        assert!(bytes <= connections * 2 * VsockHost::BUFFER_BYTES);
    });
    // Connections that are let go of are reset, in the guest's memory.
    drop(streams);
    rig.end();
}

fn drive(
    device: Arc<Mutex<dyn VirtioDevice>>,
    sizes: &[u16],
    input: &[u8],
    mut look: impl FnMut(),
) -> Rig {
    let mut script = Script::new(input);
    let mut rig = Rig::start(device, RAM_BYTES, sizes, script.byte() & 1 != 0);
    for _ in 0..MOST_ACTS {
        if script.is_over() {
            break;
        }
        rig.act(&mut script);
        look();
    }
    rig
}
