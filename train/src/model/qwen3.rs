//! Qwen3: Llama with a norm over each head of queries and keys.

use super::config::{Architecture, Config, HeadNorms};
use super::family::{self, Kind, Window};
use super::keys::Keys;
use crate::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    vocabulary_key: "vocab_size",
    context_key: "max_position_embeddings",
    read,
    pieces: family::pieces,
    fused: |_, _, _| None,
    dense_twin: |_, _| None,
};

const KIND: Kind = Kind {
    architecture: &ARCHITECTURE,
    head: Some(128),
    epsilon: 1e-6,
    theta: 10_000.0,
    norms: Some(HeadNorms::Each),
    window: Window::Switched,
};

fn read(keys: &Keys) -> Result<Config> {
    let feed_forward_length = keys.count("intermediate_size")?;
    Ok(Config { feed_forward_length, ..family::read(keys, &KIND)? })
}
