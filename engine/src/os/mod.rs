//! What differs between operating systems: file mappings, reads, memory, cores, signals, the clock and the terminal.
//!
//! The only place that names a platform; nothing here knows models, formats or tensors.

#![allow(unsafe_code)]

pub mod clock;
pub mod cores;
pub mod disk;
pub mod extensions;
pub mod fault;
pub mod files;
#[cfg(target_os = "linux")]
mod groups;
pub mod host;
pub mod interrupt;
pub mod link;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod pages;
pub mod read;
pub mod room;
pub mod terminal;
pub mod tiles;
