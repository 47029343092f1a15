//! Devices against a driver that does anything. First byte, lowest bit: event indices.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use vmm::devices::block::{BLOCK_BYTES, Block, DiskImage, Overlay};
use vmm::devices::rng::Rng;
use vmm::devices::virtio::VirtioDevice;
use vmm::devices::vsock::{BUFFER_BYTES, MAX_CONNECTIONS, VsockDevice};

use crate::rig::Rig;
use crate::script::Script;

/// Rings, and as many buffers as an input can name by their offsets.
const RAM_BYTES: u64 = 0x2_2000;
const DISK_BLOCKS: usize = 8;
/// More than this one input says nothing new.
const MOST_ACTS: usize = 200;
const CID: u64 = 3;
const PORT: u32 = 1024;

pub fn block(input: &[u8]) {
    static IMAGE: OnceLock<Arc<DiskImage>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let content: Vec<u8> = (0..DISK_BLOCKS * BLOCK_BYTES).map(|at| (at / 512) as u8).collect();
        Arc::new(DiskImage::from_bytes(&content).unwrap())
    });
    let overlay = Overlay::new(Arc::clone(image)).unwrap();
    let device = Arc::new(Mutex::new(Block::new(overlay)));
    drive(Arc::clone(&device) as _, &[16], input, || {});
    let mut device = device.lock().unwrap();
    // The disk is what the device says it wrote, and what it did not write is the image's.
    for index in 0..device.overlay().blocks() {
        assert_eq!(device.overlay().damage(index).unwrap(), None);
    }
    assert_eq!(device.overlay_mut().take_refused(), []);
    device.overlay_mut().discard().unwrap();
    for index in 0..DISK_BLOCKS {
        assert!(
            device
                .overlay()
                .content(index)
                .iter()
                .zip(0..)
                .all(|(byte, at)| { usize::from(*byte) == (index * BLOCK_BYTES + at) / 512 })
        );
    }
}

pub fn rng(input: &[u8]) {
    drive(Arc::new(Mutex::new(Rng::new())), &[16], input, || {});
}

pub fn vsock(input: &[u8]) {
    let (device, host) = VsockDevice::new(CID);
    let listener = host.listen(PORT).unwrap();
    let mut streams = Vec::new();
    drive(Arc::new(Mutex::new(device)), &[16, 16, 8], input, || {
        streams.extend(listener.accept(Some(Duration::ZERO)));
        let state = host.capture();
        assert!(state.is_sound(CID), "{state:?}");
        let (connections, bytes) = state.size();
        assert!(connections <= MAX_CONNECTIONS);
        assert!(bytes <= connections * 2 * BUFFER_BYTES as usize);
    });
}

fn drive(
    device: Arc<Mutex<dyn VirtioDevice>>,
    sizes: &[u16],
    input: &[u8],
    mut look: impl FnMut(),
) {
    let mut script = Script::new(input);
    let mut rig = Rig::start(device, RAM_BYTES, sizes, script.byte() & 1 != 0);
    for _ in 0..MOST_ACTS {
        if script.is_over() {
            break;
        }
        rig.act(&mut script);
        look();
    }
}
