//! What differs between operating systems: file mappings and the like.
//!
//! The only place that names a platform; nothing here knows models, formats or tensors.

#![allow(unsafe_code)]

pub mod interrupt;
pub mod mapping;
pub mod memory;
pub mod terminal;
