//! What a command wrote, so that it can be shown later: chunks, their chain, and what vouches for it.
//!
//! # The chain
//!
//! The guest cuts what a tool writes into chunks as it arrives, at most 1 MiB each, and links them:
//! `h[n] = SHA-256("brainstorm-evidence-chunk-v1" 00 ‖ command id ‖ u64be(n) ‖ u32be(length) ‖ data
//! ‖ h[n-1])`, with the UTF-8 text of the command id, `n` from 1 and 32 zero bytes for `h[0]`. The
//! hash of the last chunk is the `evidence_hash` of the result.
//!
//! Both streams are in one chain, in the order in which the guest read them. The first byte of a
//! chunk's data says which stream it is: 1 for output, 2 for error output; the rest is what the tool
//! wrote. The last chunk is empty and nothing else is, so a tool that wrote nothing has a chain of
//! one empty chunk. Where the guest could not end its chain, because the host took its machine away,
//! the host ends it after the last good chunk, so that what was seen until then is covered as well.
//!
//! # Where it is
//!
//! The chunks stay on this machine, in the state directory, see [`archive`]: no message of the
//! protocol carries them. `brainstorm-agent evidence export` puts all that is known of one command
//! into a signed file, see [`bundle`] and [`export`], and `evidence verify` checks such a file anywhere, see
//! [`check`].

pub mod archive;
pub mod bundle;
pub mod check;
pub mod export;
pub mod record;

pub use archive::{EvidenceStore, Retention};
pub use bundle::{Bundle, SignedBundle};
pub use check::{BundleFault, BundleReport, Trust};
pub use export::ExportError;
pub use record::{EvidenceRecord, ResetDetails};
