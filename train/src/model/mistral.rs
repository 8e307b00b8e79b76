//! Mistral: Llama with a window, which must be as long as the context that is trained.

use super::config::{Architecture, Config};
use super::family::{self, Kind, Window};
use super::keys::Keys;
use crate::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    model_type: "mistral",
    class: "MistralForCausalLM",
    vocabulary_key: "vocab_size",
    context_key: "max_position_embeddings",
    read,
    pieces: family::pieces,
    fused: |_, _, _| None,
    dense_twin: |_, _| None,
};

const KIND: Kind = Kind {
    architecture: &ARCHITECTURE,
    head: None,
    epsilon: 1e-6,
    theta: 10_000.0,
    norms: None,
    window: Window::Key(Some(4096)),
};

fn read(keys: &Keys) -> Result<Config> {
    let feed_forward_length = keys.count("intermediate_size")?;
    Ok(Config { feed_forward_length, ..family::read(keys, &KIND)? })
}
