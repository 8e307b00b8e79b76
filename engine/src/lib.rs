//! The runtime of Möwe: opens GGUF files, keeps their experts, computes the forward.
//!
//! Modules stand in the order of their layers; each uses only those above it (ARCHITECTURE.md draws the map).

pub mod error;
pub mod os;
pub(crate) mod threads;
pub mod simd;
pub mod quant;
pub mod gguf;
pub mod ops;
pub(crate) mod kernels;
pub mod cuda;
pub mod tokenizer;
pub mod dialogue;
pub mod grammar;
pub mod experts;
pub mod model;
pub mod sampler;
pub mod session;
pub mod generate;
pub mod eval;

pub use error::{Error, Result};
