//! Measurements, printed as distributions.

fn main() {}
