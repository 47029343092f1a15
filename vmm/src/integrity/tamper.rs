//! Ways to change a machine behind its own back, so that tests can see its checks notice.

/// What [`Machine::tamper`](crate::Machine::tamper) flips one bit of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tamper {
    /// A dirty block of the disk's overlay.
    Overlay {
        /// Number of the block.
        block: u64,
    },
    /// A clean block of the disk, in the mapping that the guest reads it through.
    Base {
        /// Number of the block.
        block: u64,
    },
    /// A page of memory, past every log. It need not be clean.
    CleanPage {
        /// A guest-physical address in it: the byte that changes.
        address: u64,
    },
    /// The first page that the last reset restored, past every log.
    RestoredPage,
    /// The same as [`Self::CleanPage`], for a page that was written by the guest since the last
    /// reset or will be before the next: what the log misses.
    HideDirtyPage {
        /// A guest-physical address in it: the byte that changes.
        address: u64,
    },
    /// A general register of the first vCPU.
    Register,
    /// A model-specific register of the first vCPU.
    Msr,
    /// A redirection entry of the I/O APIC.
    InterruptController,
    /// Where a virtio device is in its queue.
    QueueIndex,
    /// A page of golden memory, as resets copy it.
    Golden {
        /// A guest-physical address in it: the byte that changes.
        address: u64,
    },
}
