//! What is made of measurements of resets: files, plots and tables.

pub mod sweep;
