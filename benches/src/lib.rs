//! What is made of measurements: reports, files and tables for people and programs.

pub mod report;
pub mod sweep;
