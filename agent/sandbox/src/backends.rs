//! What sandboxes are made of: one folder for each kind of machine.

pub mod kvm;
