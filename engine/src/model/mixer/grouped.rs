//! Grouped attention: query heads share key and value heads.

use super::super::backend::Backend;
use super::super::binder::LayerBinder;
use super::super::keys::Keys;
use super::super::kinds::{Half, Kind, Pass};
use super::super::limit;
use super::super::matrix::{Linear, Matrix, NormWeights};
use super::super::observe::Observe;
use super::super::state::{Memory, Pages};
use super::super::step::{AttentionStep, Factor, Span};
use super::super::{Architecture, mixer};
use crate::cuda::Vector;
use crate::error::Result;

/// Sizes of grouped attention.
#[derive(Clone, Debug)]
pub struct Shape {
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
    /// How many positions back a position sees, itself included; `None` for all.
    pub window: Option<usize>,
    /// Index into [`Config::ropes`](super::super::Config::ropes); `None` for learned positions, and for none.
    pub rope: Option<usize>,
    /// Whether `attn_q` has a gate behind each query, whose sigmoid weighs the head's result.
    pub gated: bool,
    /// Where values come from.
    pub values: Values,
}

/// What a query or key norm spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself, one weight for all heads.
    Head,
    /// All heads as one row.
    Row,
}

/// Where values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// A matrix of their own.
    Own,
    /// The same, each normed without weights (Gemma 4).
    Normed,
    /// The keys before their norm and rotation, each normed without weights (Gemma 4).
    Keys,
}

impl Shape {
    /// What the keys say of a layer, with the first rotation where the architecture has any, and no window.
    pub(in crate::model) fn read(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Self> {
        let head_count = keys.per_layer("attention.head_count", layer, limit::HEADS)?.unwrap_or(0);
        if head_count == 0 {
            return Err(keys.wrong(
                "attention.head_count",
                format!("at least 1 in layer {layer}"),
                head_count,
            ));
        }
        let head_count_kv =
            keys.per_layer("attention.head_count_kv", layer, limit::HEADS)?.unwrap_or(head_count);
        if head_count_kv == 0 || head_count % head_count_kv != 0 {
            let expected = format!("a divisor of {head_count}");
            return Err(keys.wrong("attention.head_count_kv", expected, head_count_kv));
        }
        let key_length = read_key_length(keys)?;
        let value_length = keys.number("attention.value_length", limit::WIDTH)?.unwrap_or(key_length);
        if key_length == 0 || value_length == 0 {
            return Err(keys.wrong("attention.key_length", "at least 1", 0));
        }
        let scale = keys.float("attention.scale")?.filter(|scale| *scale != 0.0);
        Ok(Self {
            head_count,
            head_count_kv,
            key_length,
            value_length,
            scale: scale.unwrap_or(1.0 / (key_length as f32).sqrt()),
            qk_norm: architecture.qk_norm,
            window: None,
            rope: architecture.rope.map(|_| 0),
            gated: false,
            values: Values::Own,
        })
    }

    fn queries(&self) -> Span {
        let stride = if self.gated { 2 * self.key_length } else { self.key_length };
        Span { at: 0, count: self.head_count, width: self.key_length, stride }
    }

    /// What weighs results, each behind its query.
    fn gates(&self) -> Span {
        Span { at: self.key_length, ..self.queries() }
    }

    fn keys(&self) -> Span {
        let queries = self.queries();
        Span::pieces(queries.count * queries.stride, self.head_count_kv, self.key_length)
    }

    fn values(&self) -> Span {
        let keys = self.keys();
        Span::pieces(keys.at + keys.count * keys.width, self.head_count_kv, self.value_length)
    }

    /// Columns of a joined row of queries, keys and values.
    fn joined(&self) -> usize {
        let values = self.values();
        values.at + values.count * values.width
    }

    fn attended(&self) -> usize {
        self.head_count * self.value_length
    }
}

/// Width of a key, which all layers share where the file does not say it.
pub(in crate::model) fn read_key_length(keys: &Keys<'_>) -> Result<usize> {
    if let Some(length) = keys.number("attention.key_length", limit::WIDTH)? {
        return Ok(length);
    }
    let layers = keys.require("block_count", limit::LAYERS)?;
    let mut head_count = 0;
    for layer in 0..layers {
        let heads = keys.per_layer("attention.head_count", layer, limit::HEADS)?.unwrap_or(0);
        head_count = head_count.max(heads);
    }
    if head_count == 0 {
        return Err(keys.wrong("attention.head_count", "at least 1", 0));
    }
    let width = keys.require("embedding_length", limit::WIDTH)?;
    if width.is_multiple_of(head_count) {
        Ok(width / head_count)
    } else {
        Err(keys.wrong("attention.head_count", format!("a divisor of {width}"), head_count))
    }
}

/// An architecture's [`mixer`](Architecture::mixer): this kind in every layer, as the keys say it.
pub(in crate::model) fn read(
    keys: &Keys<'_>,
    architecture: &Architecture,
    layer: usize,
) -> Result<Option<mixer::Shape>> {
    Shape::read(keys, architecture, layer).map(|shape| Some(mixer::Shape::Grouped(shape)))
}

/// Grouped attention with its tensors.
pub struct Grouped {
    shape: Shape,
    qkv: Vec<(Linear, usize)>, // q, k, v, or all three in one, with the column of the joined row where each starts
    q_norm: Option<NormWeights>,
    k_norm: Option<NormWeights>,
    v_norm: Option<NormWeights>,
    sinks: Option<Vector>, // one logit per query head
    output: Linear,        // back to the residual stream
}

/// Rows between the steps.
pub struct Scratch<B: Backend> {
    joined: B::Buffer,   // queries, keys and values (rows, q + k + v)
    attended: B::Buffer, // heads' values (rows, head_count * value_length)
}

impl Kind for Grouped {
    type Shape = Shape;
    type Scratch<B: Backend> = Scratch<B>;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let (keys, values, width) = (shape.keys(), shape.values(), layer.width());
        let qkv = match layer.optional_linear("attn_qkv", shape.joined(), width)? {
            Some(joined) => vec![(joined, 0)],
            None => {
                let mut qkv = vec![
                    (layer.linear("attn_q", keys.at, width)?, 0),
                    (layer.linear("attn_k", values.at - keys.at, width)?, keys.at),
                ];
                if shape.values != Values::Keys {
                    qkv.push((layer.linear("attn_v", shape.joined() - values.at, width)?, values.at));
                }
                qkv
            }
        };
        let norm = |name: &str, row: usize| match shape.qk_norm {
            None => Ok(None),
            Some(QkNorm::Head) => layer.norm(name, shape.key_length).map(Some),
            Some(QkNorm::Row) => layer.norm(name, row).map(Some),
        };
        Ok(Self {
            qkv,
            q_norm: norm("attn_q_norm", keys.at)?,
            k_norm: norm("attn_k_norm", values.at - keys.at)?,
            v_norm: (shape.values != Values::Own).then(|| layer.norm_with(vec![1.0; shape.value_length])),
            sinks: layer.optional_vector("attn_sinks.weight", shape.head_count)?,
            output: layer.linear("attn_output", width, shape.attended())?,
            shape: shape.clone(),
        })
    }

    fn memory(shape: &Shape) -> Memory {
        Memory::Pages(Pages {
            heads: shape.head_count_kv,
            key_length: shape.key_length,
            value_length: shape.value_length,
            index_length: 0,
        })
    }

    fn scratch<B: Backend>(backend: &B) -> Scratch<B> {
        Scratch { joined: backend.buffer(0), attended: backend.buffer(0) }
    }

    fn scratch_columns(&self) -> usize {
        self.shape.joined() + self.shape.attended()
    }

    fn matrices(&self) -> Vec<&Matrix> {
        let qkv = self.qkv.iter().map(|(linear, _)| linear);
        qkv.chain([&self.output]).map(|linear| &linear.matrix).collect()
    }

    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        let Scratch { joined, attended } = scratch;
        pass.resize(joined, self.shape.joined());
        for (linear, at) in &self.qkv {
            pass.linear(linear, half.normed, joined, *at);
        }
        let [queries, keys, values] = [self.shape.queries(), self.shape.keys(), self.shape.values()];
        if self.shape.values == Values::Keys {
            pass.backend.copy_within(joined, keys, values);
        }
        for (norm, span) in [(&self.q_norm, queries), (&self.k_norm, keys), (&self.v_norm, values)] {
            if let Some(norm) = norm {
                let is_row = self.shape.qk_norm == Some(QkNorm::Row);
                let span = if is_row { span.as_one() } else { span };
                pass.backend.norm_span(norm, joined, span);
            }
        }
        if let Some(rope) = self.shape.rope {
            for span in [queries, keys] {
                pass.backend.rope(&pass.ropes[rope], &half.angles[rope], joined, span);
            }
        }
        let step = AttentionStep {
            layer: half.layer,
            rows: pass.rows,
            queries,
            keys,
            values,
            index: Span::NONE,
            value_length: self.shape.value_length,
            scale: self.shape.scale,
            window: self.shape.window,
            sinks: self.sinks.as_ref(),
        };
        pass.backend.store(&step, joined, pass.states);
        pass.backend.attention(&step, joined, pass.states, attended);
        if self.shape.gated {
            let results = Span::pieces(0, self.shape.head_count, self.shape.value_length);
            pass.backend.multiply_span(Factor::Sigmoid, joined, self.shape.gates(), attended, results);
        }
        pass.linear(&self.output, attended, half.added, 0);
        Ok(())
    }
}
