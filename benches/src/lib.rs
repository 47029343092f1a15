//! What is made of measurements: files and tables for people and programs.

pub mod sweep;
