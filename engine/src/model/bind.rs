//! Binding: finds every tensor that a [`Config`] promises, checks its shape once, and hands out typed parts.
//!
//! After binding nothing about shapes or formats can go wrong in a step. Surplus tensors are errors: a weight
//! that is not used means that another function would be computed.

use super::Architecture;
use super::config::{Attention, Config, Experts, Ffn, Norm, QkNorm, Shared};
use super::weights::{
    AttentionWeights, FfnWeights, GatedWeights, GroupedWeights, LatentWeights, LayerWeights, Linear, Matrix,
    NormWeights, RouterWeights, Weights,
};
use crate::error::{Error, Result};
use crate::experts::{ExpertLayer, ExpertStore, Stack};
use crate::gguf::{Bytes, Gguf, TensorInfo};
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::OnceLock;

/// Finds all tensors of `config`.
pub(super) fn bind(gguf: &Gguf, architecture: &Architecture, config: &Config) -> Result<Weights> {
    let binder = Binder { gguf, used: RefCell::default() };
    let width = config.embedding_length;
    let token_embedding = binder.matrix("token_embd.weight", config.vocab_size, width)?;
    let position_embedding = match config.learned_positions {
        Some(rows) => Some(binder.matrix("position_embd.weight", rows, width)?),
        None => None,
    };
    let output = match binder.optional_linear("output", config.vocab_size, width)? {
        Some(output) => output,
        None => Linear { name: "output".into(), matrix: token_embedding.clone(), bias: None },
    };
    let output_norm = binder.norm("output_norm", config.output_norm, width)?;
    binder.ignore("rope_freqs.weight");
    let mut layers = Vec::with_capacity(config.layers.len());
    let mut experts = Vec::with_capacity(config.layers.len());
    for i in 0..config.layers.len() {
        let layer = LayerBinder { binder: &binder, config, architecture, i };
        layers.push(layer.bind()?);
        experts.push(layer.experts()?);
    }
    binder.refuse_surplus(config.layers.len())?;
    let experts = ExpertStore::new(experts);
    Ok(Weights { token_embedding, position_embedding, layers, output_norm, output, experts })
}

struct Binder<'a> {
    gguf: &'a Gguf,
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
        Ok(Matrix { format: tensor.format, rows, cols, bytes, packed: OnceLock::new() })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.require(name)?;
        let bytes = self.checked(tensor, &[len])?;
        let mut values = vec![0f32; len];
        (tensor.format.dequantize)(&bytes, &mut values);
        Ok(values)
    }

    fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.gguf.tensor(name).map(|_| self.vector(name, len)).transpose()
    }

    fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear> {
        Ok(Linear {
            name: name.to_owned(),
            matrix: self.matrix(&format!("{name}.weight"), rows, cols)?,
            bias: self.optional_vector(&format!("{name}.bias"), rows)?,
        })
    }

    fn optional_linear(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Linear>> {
        let present = self.gguf.tensor(&format!("{name}.weight")).is_some();
        present.then(|| self.linear(name, rows, cols)).transpose()
    }

    fn norm(&self, name: &str, kind: Norm, width: usize) -> Result<NormWeights> {
        let weight = self.vector(&format!("{name}.weight"), width)?;
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

struct LayerBinder<'a> {
    binder: &'a Binder<'a>,
    config: &'a Config,
    architecture: &'a Architecture,
    i: usize,
}

impl LayerBinder<'_> {
    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.i)
    }

    fn width(&self) -> usize {
        self.config.embedding_length
    }

    fn bind(&self) -> Result<LayerWeights> {
        let norm =
            |name: &str| self.binder.norm(&self.name(name), self.config.layers[self.i].norm, self.width());
        let post = |name: &str| if self.architecture.post_norms { norm(name).map(Some) } else { Ok(None) };
        Ok(LayerWeights {
            attention_norm: norm("attn_norm")?,
            attention: self.attention()?,
            attention_post_norm: post("post_attention_norm")?,
            ffn_norm: norm(self.architecture.ffn_norm)?,
            ffn: self.ffn()?,
            ffn_post_norm: post("post_ffw_norm")?,
        })
    }

    fn attention(&self) -> Result<AttentionWeights> {
        let layer = &self.config.layers[self.i];
        let Attention::Grouped(head) = &layer.attention else { return self.latent() };
        let (q, k) = (head.head_count * head.key_length, head.head_count_kv * head.key_length);
        let v = head.head_count_kv * head.value_length;
        let linear = |name: &str, rows| self.binder.linear(&self.name(name), rows, self.width());
        let qkv = match self.binder.optional_linear(&self.name("attn_qkv"), q + k + v, self.width())? {
            Some(joined) => vec![(joined, 0)],
            None => vec![(linear("attn_q", q)?, 0), (linear("attn_k", k)?, q), (linear("attn_v", v)?, q + k)],
        };
        let norm = |name: &str, row: usize| match head.qk_norm {
            None => Ok(None),
            Some(QkNorm::Head) => self.binder.norm(&self.name(name), layer.norm, head.key_length).map(Some),
            Some(QkNorm::Row) => self.binder.norm(&self.name(name), layer.norm, row).map(Some),
        };
        Ok(AttentionWeights::Grouped(Box::new(GroupedWeights {
            qkv,
            q_norm: norm("attn_q_norm", q)?,
            k_norm: norm("attn_k_norm", k)?,
            sinks: self.binder.optional_vector(&self.name("attn_sinks.weight"), head.head_count)?,
            output: self.binder.linear(
                &self.name("attn_output"),
                self.width(),
                head.head_count * head.value_length,
            )?,
        })))
    }

    fn latent(&self) -> Result<AttentionWeights> {
        let layer = &self.config.layers[self.i];
        let Attention::Latent {
            head_count,
            q_lora_rank,
            kv_lora_rank,
            nope_length,
            rope_length,
            value_length,
            ..
        } = layer.attention
        else {
            unreachable!("called for latent attention only")
        };
        let q_rows = head_count * (nope_length + rope_length);
        let linear = |name: &str, rows, cols| self.binder.linear(&self.name(name), rows, cols);
        let (q_a, q) = match q_lora_rank {
            None => (None, linear("attn_q", q_rows, self.width())?),
            Some(rank) => {
                let norm = self.binder.norm(&self.name("attn_q_a_norm"), layer.norm, rank)?;
                (Some((linear("attn_q_a", rank, self.width())?, norm)), linear("attn_q_b", q_rows, rank)?)
            }
        };
        let slices = |name: &str, rows, cols| self.binder.slices(&self.name(name), head_count, rows, cols);
        Ok(AttentionWeights::Latent(Box::new(LatentWeights {
            q_a,
            q,
            kv_a: linear("attn_kv_a_mqa", kv_lora_rank + rope_length, self.width())?,
            kv_a_norm: self.binder.norm(&self.name("attn_kv_a_norm"), layer.norm, kv_lora_rank)?,
            k_b: slices("attn_k_b.weight", kv_lora_rank, nope_length)?,
            v_b: slices("attn_v_b.weight", value_length, kv_lora_rank)?,
            output: linear("attn_output", self.width(), head_count * value_length)?,
        })))
    }

    fn gated(&self, suffix: &str, length: usize) -> Result<GatedWeights> {
        let name = |part: &str| self.name(&format!("ffn_{part}{suffix}"));
        Ok(GatedWeights {
            gate: self.binder.optional_linear(&name("gate"), length, self.width())?,
            up: self.binder.linear(&name("up"), length, self.width())?,
            down: self.binder.linear(&name("down"), self.width(), length)?,
        })
    }

    fn ffn(&self) -> Result<FfnWeights> {
        let experts = match &self.config.layers[self.i].ffn {
            Ffn::Dense { length, .. } => return Ok(FfnWeights::Dense(Box::new(self.gated("", *length)?))),
            Ffn::Experts(experts) => experts,
        };
        Ok(FfnWeights::Experts(Box::new(RouterWeights {
            router: self.binder.linear(&self.name("ffn_gate_inp"), experts.expert_count, self.width())?,
            choice_bias: self.binder.optional_vector(&self.name("exp_probs_b.bias"), experts.expert_count)?,
            shared: experts.shared.map(|shared| self.shared(shared)).transpose()?,
        })))
    }

    fn shared(&self, shared: Shared) -> Result<(GatedWeights, Option<Linear>)> {
        let ffn = self.gated("_shexp", shared.length)?;
        let gate = self.binder.optional_linear(&self.name("ffn_gate_inp_shexp"), 1, self.width())?;
        Ok((ffn, gate))
    }

    fn experts(&self) -> Result<Option<ExpertLayer>> {
        let Ffn::Experts(experts) = &self.config.layers[self.i].ffn else { return Ok(None) };
        let (length, width) = (experts.length, self.width());
        let (gate, up) = match self.joined_gate_up(experts)? {
            Some((gate, up)) => (Some(gate), up),
            None => (
                self.optional_stack("gate", experts, length, width)?,
                self.stack("up", experts, length, width)?,
            ),
        };
        Ok(Some(ExpertLayer { gate, up, down: self.stack("down", experts, width, length)? }))
    }

    /// `ffn_gate_up_exps` holds each expert's gate rows, then its up rows.
    fn joined_gate_up(&self, experts: &Experts) -> Result<Option<(Stack, Stack)>> {
        let name = self.name("ffn_gate_up_exps.weight");
        if self.binder.gguf.tensor(&name).is_none() {
            return Ok(None);
        }
        let joined = self.binder.slices(&name, experts.expert_count, 2 * experts.length, self.width())?;
        let half = |second: usize| {
            let part = |matrix: &Matrix| {
                let len = matrix.bytes.len() / 2;
                matrix.bytes.slice(second * len..(second + 1) * len)
            };
            let (rows, cols) = (experts.length, self.width());
            Stack {
                format: joined[0].format,
                rows,
                cols,
                experts: joined.iter().map(part).collect(),
                bias: None,
            }
        };
        Ok(Some((half(0), half(1))))
    }

    fn optional_stack(
        &self,
        part: &str,
        experts: &Experts,
        rows: usize,
        cols: usize,
    ) -> Result<Option<Stack>> {
        let present = |name: String| self.binder.gguf.tensor(&self.name(&name)).is_some();
        let present = present(format!("ffn_{part}_exps.weight")) || present(format!("ffn_{part}.0.weight"));
        present.then(|| self.stack(part, experts, rows, cols)).transpose()
    }

    /// One stack from a 3-D tensor, or from one tensor per expert as files before April 2024 have them.
    fn stack(&self, part: &str, experts: &Experts, rows: usize, cols: usize) -> Result<Stack> {
        let count = experts.expert_count;
        let joined = self.name(&format!("ffn_{part}_exps"));
        let first = self.name(&format!("ffn_{part}.0.weight"));
        let slices = if self.binder.gguf.tensor(&first).is_some() {
            let single =
                |e: usize| self.binder.matrix(&self.name(&format!("ffn_{part}.{e}.weight")), rows, cols);
            (0..count).map(single).collect::<Result<Vec<_>>>()?
        } else {
            self.binder.slices(&format!("{joined}.weight"), count, rows, cols)?
        };
        let format = slices[0].format;
        if let Some(other) = slices.iter().find(|slice| slice.format != format) {
            let place = format!("experts of `{joined}`");
            return Err(Error::malformed(place, format!("one format, {format}"), other.format));
        }
        let name = format!("{joined}.bias");
        let bias = match self.binder.find(&name) {
            None => None,
            Some(tensor) => {
                let bytes = self.binder.checked(tensor, &[rows, count])?;
                let mut values = vec![0f32; rows * count];
                (tensor.format.dequantize)(&bytes, &mut values);
                Some(values)
            }
        };
        Ok(Stack { format, rows, cols, experts: slices.into_iter().map(|slice| slice.bytes).collect(), bias })
    }
}
