//! Guest-physical memory: where things lie, and the mapping that holds them.

mod ram;

pub use ram::GuestRam;
