//! Guests that drive the devices themselves, as no driver would: the real machine on real KVM with
//! a guest of a few bytes. After each attack the machine has failed with a reason or its devices
//! still work, and a reset brings back every bit.

mod chains;
mod floods;
mod guest;
mod packet;
mod registers;
mod rings;
mod sockets;
mod stage;
