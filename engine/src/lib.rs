//! The runtime of Möwe: opens GGUF files, keeps their experts, computes the forward.
//!
//! ```
//! use moewe_engine::{Engine, Options, Sampler};
//! # use moewe_engine::dialogue::Reader;
//! # use moewe_engine::generate::Answer;
//! # use moewe_engine::sampler::Sampling;
//! # use moewe_engine::tokenizer::Special;
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/moewe-mini/moewe-mini.gguf");
//!
//! let engine = Engine::open(model, Options::default())?;
//! let prompt = engine.tokenizer()?.encode_with_bos("Es war einmal eine Möwe", Special::Plain)?;
//! let mut session = engine.session()?;
//! let mut sampler = Sampler::new(Sampling::greedy(), engine.config().vocab_size)?;
//! let mut answer = Answer::start(&mut session, &mut sampler, &prompt, Some(8), Reader::plain())?;
//! while let Some(text) = answer.next_text()? {
//!     print!("{text}");
//! }
//! # assert!(!answer.reader().answer().is_empty());
//! # Ok::<(), moewe_engine::Error>(())
//! ```
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
pub use generate::Generation;
pub use sampler::Sampler;
pub use session::{Engine, Options, Session};
pub use tokenizer::Tokenizer;
