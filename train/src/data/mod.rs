//! From text to batches of token ids: corpora, tokenizers, shards, and the endless stream that training reads.
//!
//! Documents come from files ([`corpus`]), become ids ([`encoder`]), are cut into rows and written as `.npy` arrays
//! ([`prepare`]); [`mixture`] makes one stream of many such folders and [`loader`] reads it ahead. Conversations, for
//! fine-tuning, become rows in memory ([`chat`]). Nothing here knows models or tensors.

mod batches;
pub mod chat;
pub mod corpus;
pub mod encoder;
mod holdout;
pub mod ids;
pub mod loader;
pub mod manifest;
pub mod mixture;
mod npy;
mod partial;
mod permutation;
pub mod pieces;
pub mod prepare;
pub mod progress;
mod shard_writer;
pub mod shards;
pub mod tokenizer;

pub use loader::{Batch, Loader, LoaderSettings};
pub use mixture::{Dataset, SourceSpec, Split};
