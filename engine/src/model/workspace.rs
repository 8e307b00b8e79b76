//! Scratch of a forward: what its steps hand on, and how much memory that takes.

use super::backend::Backend;
use super::config::{Attention, Config, Ffn};
use super::moe::Routing;
use super::transformer::columns;

/// Scratch of a forward, allocated once and grown to the largest batch seen.
pub struct Workspace<T> {
    pub(super) x: T,             // the residual stream (rows, embedding_length)
    pub(super) normed: T,        // input of a half (rows, embedding_length)
    pub(super) added: T,         // output of a half (rows, embedding_length)
    pub(super) qkv: T,           // joined queries, keys, values (rows, q + k + v)
    pub(super) latent: T,        // latent attention's intermediate rows
    pub(super) attended: T,      // heads' values (rows, head_count * value_length)
    pub(super) gate: T,          // (rows, hidden width)
    pub(super) up: T,            // (rows, hidden width)
    pub(super) router_logits: T, // (rows, expert_count)
    pub(super) expert_gate: T,   // (rows * expert_used_count, expert width)
    pub(super) expert_up: T,     // (rows * expert_used_count, expert width)
    pub(super) expert_out: T,    // (rows * expert_used_count, embedding_length)
    pub(super) angles: Vec<T>,   // cosines and sines per rotation (rows, dims)
    pub(super) logits: T,        // (rows that want them, vocab_size)
    pub(super) routing: Routing,
    pub(super) ahead: Routing, // a guess of the next layer's routing; no rows where none is wanted
    /// Whether routing drops tokens beyond the capacity, as the original does.
    pub drop_tokens: bool,
}

impl<T> Workspace<T> {
    /// Empty scratch for `model`.
    pub fn new<B: Backend<Buffer = T>>(backend: &B, config: &Config) -> Self {
        let buffer = |width| backend.buffer(width);
        let sizes = Sizes::of(config);
        Self {
            x: buffer(config.embedding_length),
            normed: buffer(config.embedding_length),
            added: buffer(config.embedding_length),
            qkv: buffer(sizes.qkv),
            latent: buffer(sizes.latent),
            attended: buffer(sizes.attended),
            gate: buffer(sizes.hidden),
            up: buffer(sizes.hidden),
            router_logits: buffer(sizes.experts),
            expert_gate: buffer(sizes.expert_hidden),
            expert_up: buffer(sizes.expert_hidden),
            expert_out: buffer(config.embedding_length),
            angles: config.ropes.iter().map(|rope| buffer(rope.dims())).collect(),
            logits: buffer(config.vocab_size),
            routing: Routing::default(),
            ahead: Routing::default(),
            drop_tokens: false,
        }
    }

    /// Bytes that the scratch of a step of `rows` rows takes, of which `with_logits` want logits: values, and beside
    /// them codes with a scale and sums for every 32.
    pub fn bytes(config: &Config, rows: usize, with_logits: usize) -> u64 {
        let sizes = Sizes::of(config);
        let experts = sizes.experts_used * (2 * sizes.expert_hidden + config.embedding_length);
        let row = 3 * config.embedding_length
            + sizes.qkv
            + sizes.latent
            + sizes.attended
            + 2 * sizes.hidden
            + sizes.experts
            + experts;
        (rows * row * (4 + 1 + 1) + with_logits * config.vocab_size * 4) as u64
    }

    /// Logits of the rows that wanted them, in their order.
    pub fn logits(&self) -> &T {
        &self.logits
    }
}

/// Widest row of each kind over all layers.
#[derive(Default)]
struct Sizes {
    qkv: usize,
    latent: usize,
    attended: usize,
    hidden: usize,
    experts: usize,
    experts_used: usize,
    expert_hidden: usize,
}

impl Sizes {
    fn of(config: &Config) -> Self {
        let mut sizes = Self::default();
        for layer in &config.layers {
            match &layer.attention {
                Attention::Grouped(head) => {
                    sizes.qkv = sizes.qkv.max(columns(head).end);
                    sizes.attended = sizes.attended.max(head.head_count * head.value_length);
                }
                Attention::Latent {
                    head_count,
                    q_lora_rank,
                    kv_lora_rank,
                    nope_length,
                    rope_length,
                    value_length,
                    ..
                } => {
                    sizes.qkv =
                        sizes.qkv.max(head_count * (nope_length + rope_length) + kv_lora_rank + rope_length);
                    let absorbed = head_count * (kv_lora_rank + rope_length);
                    sizes.latent = sizes.latent.max(absorbed).max(q_lora_rank.unwrap_or(0));
                    sizes.attended = sizes.attended.max(head_count * value_length);
                }
            }
            match &layer.ffn {
                Ffn::Dense { length, .. } => sizes.hidden = sizes.hidden.max(*length),
                Ffn::Experts(experts) => {
                    sizes.hidden = sizes.hidden.max(experts.shared.map_or(0, |shared| shared.length));
                    sizes.experts = sizes.experts.max(experts.expert_count);
                    sizes.experts_used = sizes.experts_used.max(experts.expert_used_count);
                    sizes.expert_hidden = sizes.expert_hidden.max(experts.length);
                }
            }
        }
        sizes
    }
}
