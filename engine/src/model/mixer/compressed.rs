//! Attention to a window of keys that are values as well, and behind it to entries that each stand for several positions;
//! where these are many an indexer chooses (DeepSeek V4). Heads are put out in groups through a matrix each.

use super::super::backend::Backend;
use super::super::binder::LayerBinder;
use super::super::keys::Keys;
use super::super::kinds::{Half, Kind, Pass};
use super::super::limit;
use super::super::matrix::{Linear, Matrix, NormWeights};
use super::super::observe::Observe;
use super::super::pool::PAGE;
use super::super::state::{Entries, Memory};
use super::super::step::{EntriesStep, IndexStep, Pooling, Span, pooling_columns, pooling_state_len};
use crate::cuda::Vector;
use crate::error::Result;

/// The ratio at which entries overlap and an indexer chooses among them.
const SPARSE: usize = 4;

/// Sizes of attention to a window and entries.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Query heads; there is one key head.
    pub head_count: usize,
    /// Width of a query, a key and a value.
    pub key_length: usize,
    /// Columns at the end of these that turn.
    pub rope_length: usize,
    /// Width of the compressed query.
    pub q_lora_rank: usize,
    /// How many positions back a position sees, itself included.
    pub window: usize,
    /// Positions that become one entry; 0 where none do.
    pub ratio: usize,
    /// What chooses among entries.
    pub indexer: Option<Indexer>,
    /// Groups of heads with an output matrix each.
    pub output_groups: usize,
    /// What such a matrix yields.
    pub output_rank: usize,
    /// Index into [`Config::ropes`](super::super::Config::ropes).
    pub rope: usize,
}

/// Sizes of what chooses among entries.
#[derive(Clone, Copy, Debug)]
pub struct Indexer {
    /// Query heads.
    pub head_count: usize,
    /// Width of a query and a key.
    pub key_length: usize,
    /// Entries that a position sees at most.
    pub top_k: usize,
}

impl Shape {
    /// What the keys say of a layer that has the rotation of this number; `ratio` positions become one entry.
    pub(in crate::model) fn read(keys: &Keys<'_>, ratio: usize, rope: usize) -> Result<Self> {
        let head_count = keys.require("attention.head_count", limit::HEADS)?;
        let key_length = keys.require("attention.key_length", limit::WIDTH)?;
        for (name, expected) in [("attention.value_length", key_length), ("attention.head_count_kv", 1)] {
            let found = keys.number(name, limit::WIDTH)?.unwrap_or(expected);
            if found != expected {
                return Err(keys.wrong(name, expected.to_string(), found));
            }
        }
        let output_groups = keys.require("attention.output_group_count", limit::HEADS)?;
        if head_count % output_groups != 0 {
            let expected = format!("a divisor of {head_count}");
            return Err(keys.wrong("attention.output_group_count", expected, output_groups));
        }
        if ratio > 0 && !PAGE.is_multiple_of(ratio) {
            let expected = format!("0, or divisors of {PAGE}");
            return Err(keys.wrong("attention.compress_ratios", expected, ratio));
        }
        let rope_length = keys.require("rope.dimension_count", key_length)?;
        let indexer = (ratio == SPARSE).then(|| Indexer::read(keys, rope_length)).transpose()?;
        Ok(Self {
            head_count,
            key_length,
            rope_length,
            q_lora_rank: keys.require("attention.q_lora_rank", limit::WIDTH)?,
            window: keys.require("attention.sliding_window", 1 << 20)?,
            ratio,
            indexer,
            output_groups,
            output_rank: keys.require("attention.output_lora_rank", limit::WIDTH)?,
            rope,
        })
    }

    fn overlaps(&self) -> bool {
        self.ratio == SPARSE
    }

    fn queries(&self) -> Span {
        Span::pieces(0, self.head_count, self.key_length)
    }

    fn key(&self) -> Span {
        Span::one(self.queries().end(), self.key_length)
    }

    /// Values and gates of which entries are made.
    fn pooled(&self) -> Span {
        let columns = if self.ratio == 0 { 0 } else { pooling_columns(self.key_length, self.overlaps()) };
        Span::pieces(self.key().end(), 2, columns)
    }

    /// The same of the indexer.
    fn index_pooled(&self) -> Span {
        let width = self.indexer.map_or(0, |indexer| indexer.key_length);
        Span::pieces(self.pooled().end(), 2, pooling_columns(width, self.overlaps()))
    }

    fn index_queries(&self) -> Span {
        let (count, width) = self.indexer.map_or((0, 0), |indexer| (indexer.head_count, indexer.key_length));
        Span::pieces(self.index_pooled().end(), count, width)
    }

    fn index_weights(&self) -> Span {
        Span::one(self.index_queries().end(), self.index_queries().count)
    }

    /// Columns of a joined row.
    fn joined(&self) -> usize {
        self.index_weights().end()
    }

    fn attended(&self) -> usize {
        self.head_count * self.key_length
    }

    fn grouped(&self) -> usize {
        self.output_groups * self.output_rank
    }

    /// The last columns of each piece, which turn.
    fn turned(&self, span: Span) -> Span {
        Span { at: span.at + span.width - self.rope_length, width: self.rope_length, ..span }
    }
}

impl Indexer {
    fn read(keys: &Keys<'_>, rope_length: usize) -> Result<Self> {
        let key_length = keys.require("attention.indexer.key_length", limit::WIDTH)?;
        if key_length < rope_length {
            let expected = format!("at least {rope_length}, which turn");
            return Err(keys.wrong("attention.indexer.key_length", expected, key_length));
        }
        Ok(Self {
            head_count: keys.require("attention.indexer.head_count", limit::HEADS)?,
            key_length,
            top_k: keys.require("attention.indexer.top_k", limit::CONTEXT)?,
        })
    }

    /// As the original divides: by the roots of width and heads.
    fn factor(self) -> f32 {
        1.0 / ((self.key_length * self.head_count) as f32).sqrt()
    }
}

/// What entries are made with.
struct Pool {
    values: Linear,
    gates: Linear,
    bias: Vector, // (ratio, columns)
    norm: NormWeights,
}

impl Pool {
    /// The tensors `name_kv`, `name_gate`, `name_ape` and `name_norm`.
    fn bind(name: &str, shape: &Shape, width: usize, layer: &LayerBinder<'_>) -> Result<Self> {
        let columns = pooling_columns(width, shape.overlaps());
        let part = |part: &str| format!("{name}_{part}");
        Ok(Self {
            values: layer.linear(&part("kv"), columns, layer.width())?,
            gates: layer.linear(&part("gate"), columns, layer.width())?,
            bias: layer.vector(&part("ape.weight"), &[columns, shape.ratio])?,
            norm: layer.norm(&part("norm"), width)?,
        })
    }

    fn step(&self, at: usize, shape: &Shape) -> Pooling<'_> {
        let Self { bias, norm, .. } = self;
        let (width, ratio, overlaps) = (norm.weight.len(), shape.ratio, shape.overlaps());
        Pooling { at, width, ratio, overlaps, bias, norm }
    }

    fn project<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        (normed, joined): (&mut B::Buffer, &mut B::Buffer),
        to: Span,
    ) {
        pass.linear(&self.values, normed, joined, to.at);
        pass.linear(&self.gates, normed, joined, to.at + to.width);
    }
}

/// What chooses among entries.
struct Index {
    pool: Pool,
    q: Linear,       // from the compressed query to all heads
    weights: Linear, // of the heads
}

/// Attention to a window and entries, with its tensors.
pub struct Compressed {
    shape: Shape,
    q_a: Linear, // to the compressed query
    q_a_norm: NormWeights,
    q_b: Linear,         // to all query heads
    q_norm: NormWeights, // on each head, without weights
    kv: Linear,
    kv_norm: NormWeights,
    sinks: Vector, // one logit per query head
    pool: Option<Pool>,
    index: Option<Index>,
    output_a: Vec<Matrix>, // per group (output_rank, heads of the group)
    output_b: Linear,      // back to the residual stream
}

/// Rows between the steps.
pub struct Scratch<B: Backend> {
    compressed: B::Buffer, // (rows, q_lora_rank)
    joined: B::Buffer,     // queries, keys, what is pooled, the indexer's (rows, joined)
    attended: B::Buffer,   // heads' values (rows, head_count * key_length)
    grouped: B::Buffer,    // (rows, output_groups * output_rank)
}

impl Kind for Compressed {
    type Shape = Shape;
    type Scratch<B: Backend> = Scratch<B>;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let (width, rank) = (layer.width(), shape.q_lora_rank);
        let pool = || Pool::bind("attn_compressor", shape, shape.key_length, layer);
        let index = |indexer: Indexer| {
            let all = indexer.head_count * indexer.key_length;
            Ok::<_, crate::Error>(Index {
                pool: Pool::bind("indexer_compressor", shape, indexer.key_length, layer)?,
                q: layer.linear("indexer.attn_q_b", all, rank)?,
                weights: layer.linear("indexer.proj", indexer.head_count, width)?,
            })
        };
        let per_group = shape.attended() / shape.output_groups;
        Ok(Self {
            q_a: layer.linear("attn_q_a", rank, width)?,
            q_a_norm: layer.norm("attn_q_a_norm", rank)?,
            q_b: layer.linear("attn_q_b", shape.attended(), rank)?,
            q_norm: layer.norm_with(vec![1.0; shape.key_length]),
            kv: layer.linear("attn_kv", shape.key_length, width)?,
            kv_norm: layer.norm("attn_kv_a_norm", shape.key_length)?,
            sinks: layer.vector("attn_sinks.weight", &[shape.head_count])?,
            pool: (shape.ratio > 0).then(pool).transpose()?,
            index: shape.indexer.map(index).transpose()?,
            output_a: layer.parts(
                "attn_output_a.weight",
                shape.output_groups,
                shape.output_rank,
                per_group,
            )?,
            output_b: layer.linear("attn_output_b", width, shape.grouped())?,
            shape: shape.clone(),
        })
    }

    fn memory(shape: &Shape) -> Memory {
        let Shape { key_length, ratio, .. } = *shape;
        let window = shape.window * key_length;
        if ratio == 0 {
            return Memory::State(window);
        }
        let index_length = shape.indexer.map_or(0, |indexer| indexer.key_length);
        let state = |width| pooling_state_len(width, ratio, shape.overlaps());
        let state = window + state(key_length) + state(index_length);
        Memory::Entries(Entries { ratio, key_length, index_length, state })
    }

    fn scratch<B: Backend>(backend: &B) -> Scratch<B> {
        let buffer = || backend.buffer(0);
        Scratch { compressed: buffer(), joined: buffer(), attended: buffer(), grouped: buffer() }
    }

    fn scratch_columns(&self) -> usize {
        let shape = &self.shape;
        shape.q_lora_rank + shape.joined() + shape.attended() + shape.grouped()
    }

    fn matrices(&self) -> Vec<&Matrix> {
        let mut all = vec![&self.q_a, &self.q_b, &self.kv];
        all.extend(self.pool.iter().flat_map(|pool| [&pool.values, &pool.gates]));
        if let Some(Index { pool, q, weights }) = &self.index {
            all.extend([&pool.values, &pool.gates, q, weights]);
        }
        let all = all.into_iter().map(|linear| &linear.matrix).chain(&self.output_a);
        all.chain([&self.output_b.matrix]).collect()
    }

    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        self.project(pass, half, scratch);
        let Scratch { joined, attended, grouped, .. } = scratch;
        let shape = &self.shape;
        let index = self.index.as_ref().zip(shape.indexer).map(|(index, indexer)| IndexStep {
            pooling: index.pool.step(shape.index_pooled().at, shape),
            queries: shape.index_queries(),
            weights: shape.index_weights().at,
            factor: indexer.factor(),
            top_k: indexer.top_k,
        });
        let step = EntriesStep {
            layer: half.layer,
            rows: pass.rows,
            queries: shape.queries(),
            key: shape.key().at,
            window: shape.window,
            scale: 1.0 / (shape.key_length as f32).sqrt(),
            sinks: &self.sinks,
            rope: &pass.ropes[shape.rope],
            pooling: self.pool.as_ref().map(|pool| pool.step(shape.pooled().at, shape)),
            index,
        };
        pass.backend.attend_entries(&step, joined, &half.angles[shape.rope], pass.states, attended);
        let from = Span::pieces(0, shape.output_groups, shape.attended() / shape.output_groups);
        let to = Span::pieces(0, shape.output_groups, shape.output_rank);
        pass.resize(grouped, shape.grouped());
        pass.backend.linear_heads(&self.output_a, attended, from, grouped, to);
        pass.linear(&self.output_b, grouped, half.added, 0);
        Ok(())
    }
}

impl Compressed {
    /// Queries and keys, normed and turned, and what entries are made of, in a joined row.
    fn project<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) {
        let Scratch { compressed, joined, .. } = scratch;
        let (shape, normed) = (&self.shape, &mut *half.normed);
        pass.resize(compressed, shape.q_lora_rank);
        pass.linear(&self.q_a, normed, compressed, 0);
        pass.backend.norm_span(&self.q_a_norm, compressed, Span::one(0, shape.q_lora_rank));
        pass.resize(joined, shape.joined());
        pass.linear(&self.q_b, compressed, joined, 0);
        pass.linear(&self.kv, normed, joined, shape.key().at);
        pass.backend.norm_span(&self.q_norm, joined, shape.queries());
        pass.backend.norm_span(&self.kv_norm, joined, shape.key());
        if let Some(pool) = &self.pool {
            pool.project(pass, (&mut *normed, &mut *joined), shape.pooled());
        }
        if let Some(index) = &self.index {
            index.pool.project(pass, (&mut *normed, &mut *joined), shape.index_pooled());
            pass.linear(&index.q, compressed, joined, shape.index_queries().at);
            pass.linear(&index.weights, normed, joined, shape.index_weights().at);
        }
        let (rope, angles) = (&pass.ropes[shape.rope], &half.angles[shape.rope]);
        for span in [shape.queries(), shape.key(), shape.index_queries()] {
            if span.count > 0 {
                pass.backend.rope(rope, angles, joined, shape.turned(span));
            }
        }
    }
}
