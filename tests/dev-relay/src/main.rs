//! The `dev-relay` command.

fn main() {}
