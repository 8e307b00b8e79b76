//! What a model is made of, layer by layer, as plain data: the only description that the forward sees.

use super::keys::Keys;
use super::matrix::Norm;
use super::state::Memory;
use super::streams::Streams;
use super::{Architecture, ffn, limit, mixer, unread};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorName};
use crate::ops::Rope;

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
    /// Logits become `cap * tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
    /// The norm before the head.
    pub output_norm: Norm,
    /// Residual streams, where there are several.
    pub streams: Option<Streams>,
    /// The distinct rotations; layers name one by index.
    pub ropes: Vec<Rope>,
    /// One per layer, in order.
    pub layers: Vec<Layer>,
}

impl Config {
    /// Columns of the residual stream, or of all streams side by side.
    pub fn residual_length(&self) -> usize {
        self.embedding_length * self.streams.map_or(1, |streams| streams.count)
    }

    /// What a sequence keeps of each layer.
    pub fn memories(&self) -> Vec<Memory> {
        let memory = |layer: &Layer| layer.mixer.as_ref().map_or(Memory::State(0), mixer::Shape::memory);
        self.layers.iter().map(memory).collect()
    }
}

/// One transformer layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Norms before mixer and FFN.
    pub norm: Norm,
    /// What mixes positions, where anything does.
    pub mixer: Option<mixer::Shape>,
    /// The second half, where there is one.
    pub ffn: Option<ffn::Shape>,
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
        embedding_scale: (architecture.embedding_scale)(&keys)?,
        residual_scale: keys.float("residual_scale")?.unwrap_or(1.0),
        logit_scale: keys
            .float("logit_scale")?
            .filter(|scale| *scale != 0.0)
            .map_or(1.0, |scale| 1.0 / scale),
        logit_cap: (architecture.logit_cap)(&keys)?,
        output_norm: norm,
        streams: (architecture.streams)(&keys)?,
        ropes: (architecture.ropes)(&keys, architecture)?,
        layers: Vec::with_capacity(layers),
    };
    for layer in 0..layers {
        let mixer = (architecture.mixer)(&keys, architecture, layer)?;
        let ffn = (architecture.ffn)(&keys, architecture, layer)?;
        config.layers.push(Layer { norm, mixer, ffn });
    }
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
        let Some(layer) = TensorName::of(&tensor.name).layer else { continue };
        if layer >= all {
            let expected = format!("a layer below {all}, as key `{}` says", keys.full("block_count"));
            return Err(Error::malformed(
                format!("tensor `{}`", tensor.name),
                expected,
                format!("layer {layer}"),
            ));
        }
        let predicts = || keys.has(layer, "nextn.eh_proj.weight");
        if layer >= all - predicting && !predicts() {
            let expected =
                format!("layer {layer} to predict further tokens (tensor `blk.{layer}.nextn.eh_proj`)");
            return Err(keys.wrong("nextn_predict_layers", expected, "a layer like the others"));
        }
    }
    Ok(all - predicting)
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
    let has_some = config.layers.iter().any(|layer| matches!(layer.ffn, Some(ffn::Shape::Experts(_))));
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
    let (other, rms) = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon");
    // Nemotron's files have the other's key for an RMS norm.
    let is_named = !architecture.layer_norm && keys.value(rms).is_some();
    let name = if is_named { rms } else { other };
    let epsilon = keys.float(name)?.unwrap_or(1e-5);
    if !(0.0..1.0).contains(&epsilon) {
        return Err(keys.wrong(name, "between 0 and 1", epsilon));
    }
    Ok(if architecture.layer_norm { Norm::Layer { epsilon } } else { Norm::Rms { epsilon } })
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
