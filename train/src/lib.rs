//! Pretraining of Mixture-of-Experts language models: from text to checkpoints that `moewe convert` reads.
//!
//! Its own house beside the runtime: the two meet only in files.
//!
//! ```
//! use candle_core::{DType, Device};
//! use moewe_train::model::{Batch, Config, Model, Pass};
//! use moewe_train::optimizer::AdamW;
//! use moewe_train::settings::Settings;
//! # let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/train-step/mixtral");
//!
//! let mut model = Model::new(Config::named(config)?, 42, DType::F32, &Device::Cpu)?;
//! let mut optimizer = AdamW::new(Settings::default().optimizer(), &model)?;
//! let batch = Batch { tokens: &[3, 1, 4, 1, 5, 9, 2, 6], rows: 1, packing: None };
//! let before = model.evaluate(batch, &Pass::evaluation())?.loss;
//! for _ in 0..8 {
//!     model.clear_gradients()?;
//!     model.forward_backward(batch, &Pass::evaluation())?;
//!     optimizer.step(&mut model, 1e-2)?;
//! }
//! assert!(model.evaluate(batch, &Pass::evaluation())?.loss < before);
//! # Ok::<(), moewe_train::Error>(())
//! ```

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
