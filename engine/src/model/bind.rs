//! Binding: finds every tensor that a [`Config`] promises, checks its shape once, and hands out typed parts.
//!
//! After binding nothing about shapes or formats can go wrong in a step. Surplus tensors are errors: a weight
//! that is not used means that another function would be computed.

use super::Architecture;
use super::adapter::Adapters;
use super::binder::{Binder, LayerBinder};
use super::config::{self, Config};
use super::ffn::{self, Ffn};
use super::matrix::Linear;
use super::mixer::Mixer;
use super::streams::{Ends, Mixing, Streams};
use super::weights::{Layer, Sublayer, Weights};
use crate::error::{Error, Result};
use crate::experts::{ExpertLayer, ExpertStore};
use crate::gguf::Gguf;

/// Finds all tensors of `config`.
pub(super) fn bind(
    gguf: &Gguf,
    architecture: &Architecture,
    config: &Config,
    adapters: &Adapters<'_>,
) -> Result<Weights> {
    let binder = Binder::new(gguf, adapters);
    let width = config.embedding_length;
    let token_embedding = binder.matrix("token_embd.weight", config.vocab_size, width)?;
    let position_embedding = match config.learned_positions {
        Some(rows) => Some(binder.matrix("position_embd.weight", rows, width)?),
        None => None,
    };
    let output = match binder.optional_linear("output", config.vocab_size, width)? {
        Some(output) => output,
        None => Linear { name: "output".into(), matrix: token_embedding.clone(), bias: None, low_rank: None },
    };
    let output_norm = binder.norm(architecture.output_norm, config.output_norm, width)?;
    let ends =
        config.streams.map(|streams| Ends::bind(streams, config.output_norm, width, &binder)).transpose()?;
    binder.ignore("rope_freqs.weight");
    let mut layers = Vec::with_capacity(config.layers.len());
    let mut experts = Vec::with_capacity(config.layers.len());
    for (i, layer) in config.layers.iter().enumerate() {
        let tensors = LayerBinder { binder: &binder, layer: i, norm: layer.norm, width };
        let layer = Described { layer, architecture, streams: config.streams, tensors };
        layers.push(layer.bind()?);
        experts.push(layer.experts()?);
    }
    binder.refuse_surplus(config.layers.len())?;
    adapters.refuse_surplus()?;
    let experts = ExpertStore::new(experts);
    let is_adapted = adapters.is_any();
    Ok(Weights {
        token_embedding,
        position_embedding,
        layers,
        output_norm,
        ends,
        output,
        experts,
        is_adapted,
    })
}

/// One layer's description and where its tensors are.
struct Described<'a> {
    layer: &'a config::Layer,
    architecture: &'a Architecture,
    streams: Option<Streams>,
    tensors: LayerBinder<'a>,
}

impl Described<'_> {
    fn bind(&self) -> Result<Layer> {
        let Self { layer, tensors, .. } = self;
        let norm = |name: &str| tensors.norm(name, tensors.width());
        let post = |name: &str| if self.architecture.post_norms { norm(name).map(Some) } else { Ok(None) };
        let mixing = |name| self.streams.map(|streams| Mixing::bind(name, streams, tensors)).transpose();
        let mixer = |shape| {
            let (norm, kind) = (norm("attn_norm")?, Mixer::bind(shape, tensors)?);
            let (post_norm, mixing) = (post("post_attention_norm")?, mixing("hc_attn")?);
            Ok::<_, Error>(Sublayer { norm, kind, post_norm, mixing })
        };
        let ffn = |shape| {
            // Layers of one half have one norm, whatever it stands before.
            let name = if layer.mixer.is_some() { self.architecture.ffn_norm } else { "attn_norm" };
            let (norm, kind) = (norm(name)?, Ffn::bind(shape, tensors)?);
            let (post_norm, mixing) = (post("post_ffw_norm")?, mixing("hc_ffn")?);
            Ok::<_, Error>(Sublayer { norm, kind, post_norm, mixing })
        };
        Ok(Layer {
            mixer: layer.mixer.as_ref().map(mixer).transpose()?,
            ffn: layer.ffn.as_ref().map(ffn).transpose()?,
            output_scale: tensors.optional_vector("layer_output_scale.weight", 1)?.map(|scale| scale[0]),
        })
    }

    /// The routed experts' matrices, where the layer has any.
    fn experts(&self) -> Result<Option<ExpertLayer>> {
        match &self.layer.ffn {
            Some(ffn::Shape::Experts(shape)) => ffn::experts::bind_stacks(shape, &self.tensors).map(Some),
            Some(ffn::Shape::Dense(_)) | None => Ok(None),
        }
    }
}
