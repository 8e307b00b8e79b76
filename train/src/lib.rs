//! Pretraining of Mixture-of-Experts language models: from text to checkpoints that `moewe convert` reads.
//!
//! Its own house beside the runtime: the two meet only in files.

pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod distributed;
pub mod error;
pub mod model;
pub mod monitor;
pub mod ops;
pub mod optimizer;
pub mod random;
pub mod settings;
pub mod trainer;

pub use error::{Error, Result};
