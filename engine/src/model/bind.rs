//! Binding: finds every tensor that a [`Config`] promises, checks its shape once, and hands out typed parts.
//!
//! After binding nothing about shapes or formats can go wrong in a step. Surplus tensors are errors: a weight
//! that is not used means that another function would be computed.

use super::Architecture;
use super::adapter::Adapters;
use super::config::{Config, Norm};
use super::ffn::{self, Ffn};
use super::mixer::Mixer;
use super::weights::{Layer, Linear, Matrix, NormWeights, Sublayer, Weights};
use crate::cuda::Vector;
use crate::error::{Error, Result};
use crate::experts::{ExpertLayer, ExpertStore};
use crate::gguf::{Bytes, Gguf, TensorInfo};
use crate::kernels::LowRank;
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::OnceLock;

/// Finds all tensors of `config`.
pub(super) fn bind(
    gguf: &Gguf,
    architecture: &Architecture,
    config: &Config,
    adapters: &Adapters<'_>,
) -> Result<Weights> {
    let binder = Binder { gguf, adapters, used: RefCell::default() };
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
    binder.ignore("rope_freqs.weight");
    let mut layers = Vec::with_capacity(config.layers.len());
    let mut experts = Vec::with_capacity(config.layers.len());
    for i in 0..config.layers.len() {
        let layer = LayerBinder { binder: &binder, config, architecture, i };
        layers.push(layer.bind()?);
        experts.push(layer.experts()?);
    }
    binder.refuse_surplus(config.layers.len())?;
    adapters.refuse_surplus()?;
    let experts = ExpertStore::new(experts);
    let is_adapted = adapters.is_any();
    Ok(Weights { token_embedding, position_embedding, layers, output_norm, output, experts, is_adapted })
}

struct Binder<'a> {
    gguf: &'a Gguf,
    adapters: &'a Adapters<'a>,
    used: RefCell<HashSet<String>>,
}

impl Binder<'_> {
    fn ignore(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        let tensor = self.gguf.tensor(name)?;
        self.ignore(name);
        Some(tensor)
    }

    fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.find(name).ok_or_else(|| Error::malformed("tensors", format!("`{name}`"), "none of that name"))
    }

    /// A tensor's bytes after its shape (row length first, trailing ones dropped) has been checked.
    fn checked(&self, tensor: &TensorInfo, shape: &[usize]) -> Result<Bytes> {
        let trimmed = |shape: &[u64]| {
            let len = shape.iter().rposition(|&n| n != 1).map_or(0, |last| last + 1);
            shape[..len].to_vec()
        };
        let expected: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        if trimmed(&tensor.shape) != trimmed(&expected) {
            let place = format!("tensor `{}`", tensor.name);
            return Err(Error::malformed(
                place,
                format!("shape {expected:?}"),
                format!("{:?}", tensor.shape),
            ));
        }
        Ok(self.gguf.bytes(tensor))
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let tensor = self.require(name)?;
        let bytes = self.checked(tensor, &[cols, rows])?;
        Ok(Matrix {
            format: tensor.format,
            rows,
            cols,
            bytes,
            packed: OnceLock::new(),
            home: OnceLock::new(),
        })
    }

    fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector> {
        let tensor = self.require(name)?;
        let bytes = self.checked(tensor, shape)?;
        let mut values = vec![0f32; shape.iter().product()];
        (tensor.format.dequantize)(&bytes, &mut values);
        Ok(values.into())
    }

    fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vector>> {
        self.gguf.tensor(name).map(|_| self.vector(name, &[len])).transpose()
    }

    fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear> {
        Ok(Linear {
            name: name.to_owned(),
            matrix: self.matrix(&format!("{name}.weight"), rows, cols)?,
            bias: self.optional_vector(&format!("{name}.bias"), rows)?,
            low_rank: self.adapters.of(&format!("{name}.weight"), (rows, cols, 1))?.pop().map(Box::new),
        })
    }

    fn optional_linear(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Linear>> {
        let present = self.gguf.tensor(&format!("{name}.weight")).is_some();
        present.then(|| self.linear(name, rows, cols)).transpose()
    }

    fn norm(&self, name: &str, kind: Norm, width: usize) -> Result<NormWeights> {
        let weight = self.vector(&format!("{name}.weight"), &[width])?;
        let bias = self.optional_vector(&format!("{name}.bias"), width)?;
        Ok(NormWeights { kind, weight, bias })
    }

    /// One matrix per head or expert out of a 3-D tensor.
    fn slices(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Matrix>> {
        let tensor = self.require(name)?;
        let bytes = self.checked(tensor, &[cols, rows, count])?;
        let len = bytes.len() / count.max(1);
        let slice = |i: usize| Matrix {
            format: tensor.format,
            rows,
            cols,
            bytes: bytes.slice(i * len..(i + 1) * len),
            packed: OnceLock::new(),
            home: OnceLock::new(),
        };
        Ok((0..count).map(slice).collect())
    }

    fn refuse_surplus(&self, layers: usize) -> Result<()> {
        let used = self.used.borrow();
        let beyond = |name: &str| {
            let layer =
                name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            layer.is_some_and(|layer| layer >= layers)
        };
        let surplus =
            self.gguf.tensors().iter().find(|tensor| !used.contains(&tensor.name) && !beyond(&tensor.name));
        match surplus {
            None => Ok(()),
            Some(tensor) => Err(Error::unsupported(
                format!("tensor `{}` has no place in this architecture", tensor.name),
                "the file needs something that is not computed here",
            )),
        }
    }
}

/// Finds the tensors of one layer; names are without their `blk.N.`.
pub(in crate::model) struct LayerBinder<'a> {
    binder: &'a Binder<'a>,
    config: &'a Config,
    architecture: &'a Architecture,
    i: usize,
}

impl LayerBinder<'_> {
    fn bind(&self) -> Result<Layer> {
        let description = &self.config.layers[self.i];
        let norm = |name: &str| self.norm(name, self.width());
        let post = |name: &str| if self.architecture.post_norms { norm(name).map(Some) } else { Ok(None) };
        let mixer = |shape| {
            let (norm, kind) = (norm("attn_norm")?, Mixer::bind(shape, self)?);
            Ok::<_, Error>(Sublayer { norm, kind, post_norm: post("post_attention_norm")? })
        };
        let ffn = |shape| {
            // Layers of one half have one norm, whatever it stands before.
            let name = if description.mixer.is_some() { self.architecture.ffn_norm } else { "attn_norm" };
            let (norm, kind) = (norm(name)?, Ffn::bind(shape, self)?);
            Ok::<_, Error>(Sublayer { norm, kind, post_norm: post("post_ffw_norm")? })
        };
        Ok(Layer {
            mixer: description.mixer.as_ref().map(mixer).transpose()?,
            ffn: description.ffn.as_ref().map(ffn).transpose()?,
            output_scale: self.optional_vector("layer_output_scale.weight", 1)?.map(|scale| scale[0]),
        })
    }

    /// The routed experts' matrices, where the layer has any.
    fn experts(&self) -> Result<Option<ExpertLayer>> {
        match &self.config.layers[self.i].ffn {
            Some(ffn::Shape::Experts(shape)) => ffn::experts::bind_stacks(shape, self).map(Some),
            Some(ffn::Shape::Dense(_)) | None => Ok(None),
        }
    }

    /// The whole name.
    pub(super) fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.i)
    }

    /// Width of the residual stream.
    pub(super) fn width(&self) -> usize {
        self.config.embedding_length
    }

    /// Whether there is such a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.binder.gguf.tensor(&self.name(name)).is_some()
    }

    pub(super) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.binder.matrix(&self.name(name), rows, cols)
    }

    pub(super) fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear> {
        self.binder.linear(&self.name(name), rows, cols)
    }

    pub(super) fn optional_linear(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Linear>> {
        self.binder.optional_linear(&self.name(name), rows, cols)
    }

    pub(super) fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vector>> {
        self.binder.optional_vector(&self.name(name), len)
    }

    /// `rows` rows of `len` numbers.
    pub(super) fn optional_table(&self, name: &str, rows: usize, len: usize) -> Result<Option<Vector>> {
        let Some(tensor) = self.binder.find(&self.name(name)) else { return Ok(None) };
        let bytes = self.binder.checked(tensor, &[len, rows])?;
        let mut values = vec![0f32; rows * len];
        (tensor.format.dequantize)(&bytes, &mut values);
        Ok(Some(values.into()))
    }

    /// Numbers of this shape, the fastest axis first.
    pub(super) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector> {
        self.binder.vector(&self.name(name), shape)
    }

    /// A norm of the layer's kind with weights that are no tensor of their own.
    pub(super) fn norm_with(&self, weight: Vec<f32>) -> NormWeights {
        NormWeights { kind: self.config.layers[self.i].norm, weight: weight.into(), bias: None }
    }

    /// A norm of the layer's kind.
    pub(super) fn norm(&self, name: &str, width: usize) -> Result<NormWeights> {
        self.norm_of(self.config.layers[self.i].norm, name, width)
    }

    pub(super) fn norm_of(&self, kind: Norm, name: &str, width: usize) -> Result<NormWeights> {
        self.binder.norm(&self.name(name), kind, width)
    }

    /// One matrix per head or expert out of a 3-D tensor.
    pub(super) fn slices(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Matrix>> {
        self.binder.slices(&self.name(name), count, rows, cols)
    }

    /// What adapters add to each expert's matrix of a stack; nothing without any.
    pub(super) fn low_ranks(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Vec<LowRank>> {
        self.binder.adapters.of(&self.name(&format!("{name}.weight")), (rows, cols, count))
    }
}
