//! What `install` measured on a restored machine, and what every later start is compared with.
//!
//! A [`BaselineRecord`] binds the measured values to all they depend on: kernel, root file system, command
//! line, size of the machine, what its processors show of the host, version of the monitor, and the
//! golden state itself. Records lie in two slots of one file, see [`store`]: a new one goes into the
//! other slot and keeps the old one, so that there is something to go back to until the new one has
//! passed its first verified reset in service.

pub mod machine;
pub mod record;
mod start;
pub mod store;

pub use record::{BaselineRecord, Difference, Incomplete, Mismatch, check};
pub use start::{Fallback, StartError, Started, start};
pub use store::{Authenticator, BaselineError, BaselineStore, Installed, Minted, Slot};
