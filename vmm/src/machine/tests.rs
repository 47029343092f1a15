//! Tests of whole machines whose guest is a few bytes of code: they run on every KVM there is.

mod broken_reset;
mod captured;
mod closed_state;
mod deadlines;
mod delivery_modes;
mod hazards;
mod hostile_guest;
mod hot_pages;
mod idle;
mod lifecycle;
mod read_back;
mod reset;
mod self_check;
mod tiny_guest;
mod translations;
