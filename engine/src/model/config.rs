//! What a model is made of, layer by layer, as plain data: the only description that the forward sees.

use super::Architecture;
use super::keys::Keys;
use super::{rope_scaling, unread};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::ops::{Activation, Rope};

/// Upper bounds of hyper-parameters, far above every published model: they size buffers.
mod limit {
    pub(super) const LAYERS: usize = 4096;
    pub(super) const WIDTH: usize = 1 << 20;
    pub(super) const HEADS: usize = 1 << 14;
    pub(super) const EXPERTS: usize = 1 << 16;
    pub(super) const EXPERTS_USED: usize = 1 << 10;
    pub(super) const CONTEXT: usize = 1 << 28;
}

/// A model's hyper-parameters.
#[derive(Clone, Debug)]
pub struct Config {
    /// GGUF's name of the architecture.
    pub architecture: &'static str,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub embedding_length: usize,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Rows of the learned position table, where there is one.
    pub learned_positions: Option<usize>,
    /// Factor on token embeddings.
    pub embedding_scale: f32,
    /// Factor on what attention and FFN add to the residual stream.
    pub residual_scale: f32,
    /// Factor on logits.
    pub logit_scale: f32,
    /// The norm before the head.
    pub output_norm: Norm,
    /// The distinct rotations; layers name one by index.
    pub ropes: Vec<Rope>,
    /// One per layer, in order.
    pub layers: Vec<Layer>,
}

/// One transformer layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Norms before attention and FFN.
    pub norm: Norm,
    /// How positions see each other.
    pub attention: Attention,
    /// How many positions back a position sees, itself included; `None` for all.
    pub window: Option<usize>,
    /// Index into [`Config::ropes`].
    pub rope: Option<usize>,
    /// The second half.
    pub ffn: Ffn,
}

/// A normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// Root mean square.
    Rms {
        /// Added to the mean square.
        epsilon: f32,
    },
    /// Mean and variance, with bias where the file has one.
    Layer {
        /// Added to the variance.
        epsilon: f32,
    },
}

/// What a query or key norm spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself, one weight for all heads.
    Head,
    /// All heads as one row.
    Row,
}

/// Kinds of attention.
#[derive(Clone, Debug)]
pub enum Attention {
    /// Query heads share key and value heads.
    Grouped(Head),
    /// Keys and values come from one small latent row (DeepSeek's MLA, absorbed form).
    Latent {
        /// Query heads; one key head serves all.
        head_count: usize,
        /// Width of the compressed query, where there is one.
        q_lora_rank: Option<usize>,
        /// Width of the latent row.
        kv_lora_rank: usize,
        /// Width of a head's part without position.
        nope_length: usize,
        /// Width of a head's part with position.
        rope_length: usize,
        /// Width of a head's value.
        value_length: usize,
        /// Factor on the products.
        scale: f32,
    },
}

/// Sizes of grouped attention.
#[derive(Clone, Debug)]
pub struct Head {
    /// Query heads.
    pub head_count: usize,
    /// Key and value heads, a divisor of `head_count`.
    pub head_count_kv: usize,
    /// Width of a query or key.
    pub key_length: usize,
    /// Width of a value.
    pub value_length: usize,
    /// Factor on the products.
    pub scale: f32,
    /// Norm on queries and keys.
    pub qk_norm: Option<QkNorm>,
}

/// The feed-forward half.
#[derive(Clone, Debug)]
pub enum Ffn {
    /// One FFN for every token.
    Dense {
        /// Hidden width.
        length: usize,
        /// Between up and down.
        activation: Activation,
    },
    /// Some of many.
    Experts(Experts),
}

/// A Mixture-of-Experts layer.
#[derive(Clone, Debug)]
pub struct Experts {
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
    /// Whether the chosen weights are divided by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// An FFN that every token passes besides.
    pub shared: Option<Shared>,
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
}

/// The always active experts, as one FFN.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// Hidden width of all together.
    pub length: usize,
    /// Whether a sigmoid gate weighs its output.
    pub gated: bool,
}

/// Token dropping of a batch (German MoE GPT v8): see `moe.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// `floor(used * factor * tokens / experts)`, made even, at least 2.
    pub factor: f32,
}

/// Reads a file's description.
pub(super) fn read(gguf: &Gguf, architecture: &'static Architecture) -> Result<Config> {
    let keys = Keys::new(gguf, architecture.name);
    let layers = read_layer_count(&keys)?;
    let embedding = gguf
        .tensor("token_embd.weight")
        .ok_or_else(|| Error::malformed("tensors", "`token_embd.weight`", "none of that name"))?;
    let vocab_size = match embedding.shape[..] {
        [_, rows] if rows <= 1 << 24 => rows as usize,
        _ => {
            return Err(Error::malformed(
                "tensor `token_embd.weight`",
                "a matrix",
                format!("{:?}", embedding.shape),
            ));
        }
    };
    check_vocabulary(&keys, vocab_size)?;
    let norm = read_norm(&keys, architecture)?;
    let context_length = keys.require("context_length", limit::CONTEXT)?;
    let mut config = Config {
        architecture: architecture.name,
        vocab_size,
        embedding_length: keys.require("embedding_length", limit::WIDTH)?,
        context_length,
        learned_positions: gguf.tensor("position_embd.weight").map(|_| context_length),
        embedding_scale: keys.float("embedding_scale")?.unwrap_or(1.0),
        residual_scale: keys.float("residual_scale")?.unwrap_or(1.0),
        logit_scale: keys
            .float("logit_scale")?
            .filter(|scale| *scale != 0.0)
            .map_or(1.0, |scale| 1.0 / scale),
        output_norm: norm,
        ropes: vec![],
        layers: vec![],
    };
    for layer in 0..layers {
        let ffn = read_ffn(&keys, architecture, layer)?;
        let attention = Attention::Grouped(read_head(&keys, architecture, &config, layer)?);
        config.layers.push(Layer { norm, attention, window: None, rope: None, ffn });
    }
    if let (Some(style), Some(Attention::Grouped(head))) =
        (architecture.rope, config.layers.first().map(|layer| &layer.attention))
    {
        let rope = rope_scaling::read(&keys, architecture, style, head.key_length)?;
        config.ropes.push(rope);
        config.layers.iter_mut().for_each(|layer| layer.rope = Some(0));
    }
    (architecture.adjust)(&keys, &mut config)?;
    check_experts(&keys, &config)?;
    unread::refuse(&keys)?;
    Ok(config)
}

/// Layers of the forward: all but those at the end that predict further tokens, which llama.cpp leaves out as well.
fn read_layer_count(keys: &Keys<'_>) -> Result<usize> {
    let all = keys.require("block_count", limit::LAYERS)?;
    let predicting = keys.number("nextn_predict_layers", limit::LAYERS)?.unwrap_or(0);
    if predicting >= all {
        return Err(keys.wrong("nextn_predict_layers", format!("less than {all}, the layers"), predicting));
    }
    for tensor in keys.gguf.tensors() {
        let Some(layer) = layer_of(&tensor.name) else { continue };
        if layer >= all {
            let expected = format!("a layer below {all}, as key `{}` says", keys.full("block_count"));
            return Err(Error::malformed(
                format!("tensor `{}`", tensor.name),
                expected,
                format!("layer {layer}"),
            ));
        }
        let predicts = || keys.gguf.tensor(&format!("blk.{layer}.nextn.eh_proj.weight")).is_some();
        if layer >= all - predicting && !predicts() {
            let expected =
                format!("layer {layer} to predict further tokens (tensor `blk.{layer}.nextn.eh_proj`)");
            return Err(keys.wrong("nextn_predict_layers", expected, "a layer like the others"));
        }
    }
    Ok(all - predicting)
}

/// The layer that a tensor belongs to.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// The key that counts tokens may only repeat what is there: rows of the embedding, or tokens of the vocabulary.
fn check_vocabulary(keys: &Keys<'_>, rows: usize) -> Result<()> {
    let Some(stated) = keys.number("vocab_size", usize::MAX)? else { return Ok(()) };
    let tokens = keys.gguf.metadata().get("tokenizer.ggml.tokens").and_then(|value| value.as_array());
    let tokens = tokens.map(|array| array.len());
    if stated == rows || tokens == Some(stated) {
        return Ok(());
    }
    if tokens == Some(rows) {
        // llama.cpp counts tokens where there are some; files of fine-tuned models keep the number of their base.
        let key = keys.full("vocab_size");
        tracing::warn!(
            "key `{key}` says {stated}, but there are {rows} tokens with as many rows: these count"
        );
        return Ok(());
    }
    Err(keys.wrong("vocab_size", format!("{rows}, the rows of `token_embd.weight`"), stated))
}

/// Where keys speak of experts there are some.
fn check_experts(keys: &Keys<'_>, config: &Config) -> Result<()> {
    let stated = keys.number("expert_count", limit::EXPERTS)?.unwrap_or(0);
    let has_some = config.layers.iter().any(|layer| matches!(layer.ffn, Ffn::Experts(_)));
    if stated > 0 && !has_some {
        return Err(keys.wrong("expert_count", "tensors `blk.N.ffn_gate_inp.weight`", "none of that name"));
    }
    Ok(())
}

/// Whether a layer looks back a window only, where all layers but each `pattern`-th do (0: all).
pub(super) fn slides(layer: usize, pattern: usize) -> bool {
    pattern == 0 || layer % pattern < pattern - 1
}

fn read_norm(keys: &Keys<'_>, architecture: &Architecture) -> Result<Norm> {
    let name = if architecture.layer_norm {
        "attention.layer_norm_epsilon"
    } else {
        "attention.layer_norm_rms_epsilon"
    };
    let epsilon = keys.float(name)?.unwrap_or(1e-5);
    if !(0.0..1.0).contains(&epsilon) {
        return Err(keys.wrong(name, "between 0 and 1", epsilon));
    }
    Ok(if architecture.layer_norm { Norm::Layer { epsilon } } else { Norm::Rms { epsilon } })
}

fn read_head(keys: &Keys<'_>, architecture: &Architecture, config: &Config, layer: usize) -> Result<Head> {
    let head_count = keys.per_layer("attention.head_count", layer, limit::HEADS)?.unwrap_or(0);
    if head_count == 0 {
        return Err(keys.wrong("attention.head_count", format!("at least 1 in layer {layer}"), head_count));
    }
    let head_count_kv = keys.per_layer("attention.head_count_kv", layer, limit::HEADS)?.unwrap_or(head_count);
    if head_count_kv == 0 || head_count % head_count_kv != 0 {
        return Err(keys.wrong(
            "attention.head_count_kv",
            format!("a divisor of {head_count}"),
            head_count_kv,
        ));
    }
    let key_length = match keys.number("attention.key_length", limit::WIDTH)? {
        Some(length) => length,
        None if config.embedding_length.is_multiple_of(head_count) => config.embedding_length / head_count,
        None => {
            return Err(keys.wrong(
                "attention.head_count",
                format!("a divisor of {}", config.embedding_length),
                head_count,
            ));
        }
    };
    let value_length = keys.number("attention.value_length", limit::WIDTH)?.unwrap_or(key_length);
    if key_length == 0 || value_length == 0 {
        return Err(keys.wrong("attention.key_length", "at least 1", 0));
    }
    let scale = keys.float("attention.scale")?.filter(|scale| *scale != 0.0);
    Ok(Head {
        head_count,
        head_count_kv,
        key_length,
        value_length,
        scale: scale.unwrap_or(1.0 / (key_length as f32).sqrt()),
        qk_norm: architecture.qk_norm,
    })
}

fn read_ffn(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Ffn> {
    let dense_length = keys.per_layer("feed_forward_length", layer, limit::WIDTH)?;
    if keys.gguf.tensor(&format!("blk.{layer}.ffn_gate_inp.weight")).is_none() {
        let length = dense_length.filter(|length| *length > 0);
        let length = length.ok_or_else(|| keys.wrong("feed_forward_length", "at least 1", "nothing"))?;
        return Ok(Ffn::Dense { length, activation: architecture.activation });
    }
    let expert_count = keys.require("expert_count", limit::EXPERTS)?;
    let expert_used_count = keys.require("expert_used_count", limit::EXPERTS_USED)?;
    if expert_used_count > expert_count {
        return Err(keys.wrong("expert_used_count", format!("at most {expert_count}"), expert_used_count));
    }
    let length = keys.per_layer("expert_feed_forward_length", layer, limit::WIDTH)?.or(dense_length);
    let length = length.filter(|length| *length > 0);
    let length = length.ok_or_else(|| keys.wrong("expert_feed_forward_length", "at least 1", "nothing"))?;
    if keys.number("expert_group_count", limit::EXPERTS)?.unwrap_or(1) > 1 {
        let what = "experts chosen within groups (`expert_group_count` above 1) are not computed here";
        return Err(Error::unsupported(what, "use a model without expert groups"));
    }
    Ok(Ffn::Experts(Experts {
        expert_count,
        expert_used_count,
        length,
        activation: architecture.activation,
        gating: read_gating(keys, architecture)?,
        normalise: keys.flag("expert_weights_norm")?.unwrap_or(architecture.normalise),
        scale: keys.float("expert_weights_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0),
        shared: read_shared(keys, layer, length)?,
        capacity: None,
        threshold: 0.0,
    }))
}

fn read_gating(keys: &Keys<'_>, architecture: &Architecture) -> Result<Gating> {
    match keys.number("expert_gating_func", 255)? {
        None | Some(0) => Ok(architecture.gating),
        Some(1) => Ok(Gating::Softmax),
        Some(2) => Ok(Gating::Sigmoid),
        Some(3) => Ok(Gating::SoftmaxChosen),
        Some(other) => Err(keys.wrong(
            "expert_gating_func",
            "1 (softmax), 2 (sigmoid) or 3 (softmax of the chosen)",
            other,
        )),
    }
}

/// The shared expert's width comes from its key, or from how many experts' widths it is.
fn read_shared(keys: &Keys<'_>, layer: usize, expert_length: usize) -> Result<Option<Shared>> {
    let tensor = |name: &str| keys.gguf.tensor(&format!("blk.{layer}.{name}.weight"));
    if tensor("ffn_up_shexp").is_none() {
        return Ok(None);
    }
    let count = keys.number("expert_shared_count", limit::EXPERTS)?.unwrap_or(1).max(1);
    let length = match keys.number("expert_shared_feed_forward_length", limit::WIDTH)? {
        Some(length) if length > 0 => length,
        _ => expert_length.saturating_mul(count).min(limit::WIDTH),
    };
    Ok(Some(Shared { length, gated: tensor("ffn_gate_inp_shexp").is_some() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_layer_sees_everything() {
        let all = |pattern| (0..7).map(|layer| slides(layer, pattern)).collect::<Vec<_>>();
        assert_eq!(all(0), [true; 7]);
        assert_eq!(all(1), [false; 7]);
        assert_eq!(all(2), [true, false, true, false, true, false, true]);
        assert_eq!(all(6), [true, true, true, true, true, false, true]);
    }
}
