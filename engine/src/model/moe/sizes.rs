//! Sizes of a Mixture-of-Experts layer, as a file's keys and tensors say them.

use super::super::{Architecture, Keys, limit};
use crate::error::Result;
use crate::ops::Activation;

/// Sizes of a Mixture-of-Experts layer.
#[derive(Clone, Debug)]
pub struct Shape {
    /// All of them.
    pub expert_count: usize,
    /// Active per token.
    pub expert_used_count: usize,
    /// Hidden width of each.
    pub length: usize,
    /// Between up and down.
    pub activation: Activation,
    /// Router logits to weights.
    pub gating: Gating,
    /// What names the experts of a row.
    pub chosen_by: ChosenBy,
    /// The groups among which experts are chosen first.
    pub groups: Option<Groups>,
    /// Whether the chosen weights are divided by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// An FFN that every token passes besides.
    pub shared: Option<Shared>,
    /// What the routed experts read and where their sum goes.
    pub inner: Inner,
    /// The original's token dropping, where the model was made with it.
    pub capacity: Option<Capacity>,
    /// Chosen experts with a smaller share of their row's weight are left out; 0 in every model, a person's wish.
    pub threshold: f32,
}

/// How router logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts, then choose.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
    /// Choose, then softmax over the chosen.
    SoftmaxChosen,
    /// Square root of the softplus of each (DeepSeek V4).
    SqrtSoftplus,
}

/// What names the experts of a row; their weights come from its scores in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// The best scores.
    Scores,
    /// A table with a row for each token of the vocabulary (hash routing, Roller et al. 2021).
    Token {
        /// Rows of the table.
        vocab_size: usize,
    },
}

/// Experts in groups of neighbours: the best groups of a row are chosen, then experts in these.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// All of them, a divisor of the experts.
    pub count: usize,
    /// Chosen per token.
    pub used: usize,
    /// What a group counts for: the sum of so many of its largest scores. One where experts are weighed by softmax
    /// (DeepSeek V2), else two (DeepSeek V3).
    pub counted: usize,
}

/// What the routed experts read and where their sum goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// The half's input; to what the shared FFN yields.
    Same,
    /// The residual stream, through norms of their own for the router and for them; the sum and what the FFN beside them
    /// yields are normed before they meet (Gemma 4).
    Normed,
    /// The half's input in a space of this width, and back (Nemotron 3 Super).
    Latent(usize),
}

/// The always active experts, as one FFN.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// Hidden width of all together.
    pub length: usize,
    /// Whether a sigmoid gate weighs its output.
    pub gated: bool,
    /// Between up and down.
    pub activation: Activation,
}

/// Token dropping of a batch (German MoE GPT v8): see [`Routing`](super::Routing).
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// `floor(used * factor * tokens / experts)`, made even, at least 2.
    pub factor: f32,
}

impl Shape {
    /// What an expert reads and yields, where the residual stream is so wide.
    pub(in crate::model) fn width(&self, embedding_length: usize) -> usize {
        if let Inner::Latent(width) = self.inner { width } else { embedding_length }
    }

    pub(in crate::model) fn read(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Self> {
        let expert_count = keys.require("expert_count", limit::EXPERTS)?;
        let expert_used_count = keys.require("expert_used_count", limit::EXPERTS_USED)?;
        if expert_used_count > expert_count {
            let expected = format!("at most {expert_count}");
            return Err(keys.wrong("expert_used_count", expected, expert_used_count));
        }
        let dense_length = keys.per_layer("feed_forward_length", layer, limit::WIDTH)?;
        let length = keys.per_layer("expert_feed_forward_length", layer, limit::WIDTH)?.or(dense_length);
        let length = length.filter(|length| *length > 0);
        let length =
            length.ok_or_else(|| keys.wrong("expert_feed_forward_length", "at least 1", "nothing"))?;
        let gating = read_gating(keys, architecture, layer)?;
        Ok(Self {
            expert_count,
            expert_used_count,
            length,
            activation: architecture.activation,
            gating,
            chosen_by: ChosenBy::Scores,
            groups: read_groups(keys, gating, (expert_count, expert_used_count))?,
            normalise: keys.flag("expert_weights_norm")?.unwrap_or(architecture.normalise),
            scale: keys.float("expert_weights_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0),
            shared: read_shared(keys, architecture, layer, length)?,
            inner: match keys.number("moe_latent_size", limit::WIDTH)? {
                None | Some(0) => Inner::Same,
                Some(width) => Inner::Latent(width),
            },
            capacity: None,
            threshold: 0.0,
        })
    }
}

/// A choice bias comes with sigmoid scores; some converters leave the key out then (llama.cpp's for GLM-4.7-Flash).
fn read_gating(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Gating> {
    let has_bias = || keys.has(layer, "exp_probs_b.bias");
    match keys.number("expert_gating_func", 255)? {
        None | Some(0) if architecture.gating == Gating::Softmax && has_bias() => Ok(Gating::Sigmoid),
        None | Some(0) => Ok(architecture.gating),
        Some(1) => Ok(Gating::Softmax),
        Some(2) => Ok(Gating::Sigmoid),
        Some(3) => Ok(Gating::SoftmaxChosen),
        Some(4) => Ok(Gating::SqrtSoftplus),
        Some(other) => Err(keys.wrong(
            "expert_gating_func",
            "1 (softmax), 2 (sigmoid), 3 (softmax of the chosen) or 4 (root of softplus)",
            other,
        )),
    }
}

/// One group is none.
fn read_groups(
    keys: &Keys<'_>,
    gating: Gating,
    (experts, used_experts): (usize, usize),
) -> Result<Option<Groups>> {
    let count = keys.number("expert_group_count", limit::EXPERTS)?.unwrap_or(0).max(1);
    let used = keys.number("expert_group_used_count", limit::EXPERTS)?.unwrap_or(0);
    let used = if used == 0 { count } else { used };
    if experts % count != 0 {
        return Err(keys.wrong("expert_group_count", format!("a divisor of {experts}"), count));
    }
    if used > count || used * (experts / count) < used_experts {
        let expected = format!("groups with at least {used_experts} experts, at most {count}");
        return Err(keys.wrong("expert_group_used_count", expected, used));
    }
    let counted = if gating == Gating::Softmax { 1 } else { 2 };
    Ok((used < count).then_some(Groups { count, used, counted }))
}

/// The shared expert's width comes from its key, or from how many experts' widths it is.
fn read_shared(
    keys: &Keys<'_>,
    architecture: &Architecture,
    layer: usize,
    expert_length: usize,
) -> Result<Option<Shared>> {
    if !keys.has(layer, "ffn_up_shexp.weight") {
        return Ok(None);
    }
    let count = keys.number("expert_shared_count", limit::EXPERTS)?.unwrap_or(1).max(1);
    let length = match keys.number("expert_shared_feed_forward_length", limit::WIDTH)? {
        Some(length) if length > 0 => length,
        _ => expert_length.saturating_mul(count).min(limit::WIDTH),
    };
    let gated = keys.has(layer, "ffn_gate_inp_shexp.weight");
    Ok(Some(Shared { length, gated, activation: architecture.activation }))
}
