//! Latent attention, absorbed: queries move into the latent space, so that the cache holds one small row per position
//! (DeepSeek-V2, section 2.1). With an indexer rows look at chosen positions only (`latent/indexer.rs`).

mod indexer;

use super::super::backend::Backend;
use super::super::binder::LayerBinder;
use super::super::kinds::{Half, Kind, Pass};
use super::super::matrix::{Linear, Matrix, Norm, NormWeights};
use super::super::observe::Observe;
use super::super::state::{Memory, Pages};
use super::super::step::{AttentionStep, Span};
use crate::error::{Error, Result};
pub use indexer::{Choice, Indexer};

/// On latent rows, whatever the file says of its other norms: transformers' classes give these norms no epsilon.
const NORM: Norm = Norm::Rms { epsilon: 1e-6 };

/// Sizes of latent attention; one key head serves all query heads.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Query heads.
    pub head_count: usize,
    /// Width of the compressed query, where there is one.
    pub q_lora_rank: Option<usize>,
    /// Width of the latent row.
    pub kv_lora_rank: usize,
    /// Width of a head's part without position.
    pub nope_length: usize,
    /// Width of a head's part with position.
    pub rope_length: usize,
    /// Width of a head's value.
    pub value_length: usize,
    /// Factor on the products.
    pub scale: f32,
    /// Index into [`Config::ropes`](super::super::Config::ropes).
    pub rope: usize,
    /// What chooses the positions that rows look at; `None` where they look at all.
    pub indexer: Option<Indexer>,
}

impl Shape {
    /// The indexer of a layer that chooses for itself.
    fn own_indexer(&self) -> Option<&Indexer> {
        self.indexer.as_ref().filter(|indexer| indexer.choice == Choice::Own)
    }

    fn head(&self) -> usize {
        self.nope_length + self.rope_length
    }

    /// Columns of all query heads, before which the new key stands in a joined row.
    fn queries(&self) -> usize {
        self.head_count * self.head()
    }

    /// Width of a query in the latent space, and of a cached row.
    fn absorbed(&self) -> usize {
        self.kv_lora_rank + self.rope_length
    }

    /// The rotated columns of all query heads.
    fn turned(&self) -> Span {
        Span { at: self.nope_length, count: self.head_count, width: self.rope_length, stride: self.head() }
    }
}

/// Latent attention with its tensors.
pub struct Latent {
    shape: Shape,
    q_a: Option<(Linear, NormWeights)>, // to the compressed query, and its norm
    q: Linear,                          // to all query heads
    kv_a: Linear,                       // to the latent row and the shared rotated key
    kv_a_norm: NormWeights,             // on the latent row
    k_b: Vec<Matrix>,                   // per head (kv_lora_rank, nope_length)
    v_b: Vec<Matrix>,                   // per head (value_length, kv_lora_rank)
    output: Linear,                     // back to the residual stream
    indexer: Option<indexer::Bound>,    // of the layer itself
}

/// Rows between the steps.
pub struct Scratch<B: Backend> {
    joined: B::Buffer, // query heads, latent row and rotated key (rows, queries + absorbed), what chooses positions
    compressed: B::Buffer, // (rows, q_lora_rank)
    absorbed: B::Buffer, // queries in the latent space (rows, head_count * absorbed)
    attended: B::Buffer, // latent values (rows, head_count * kv_lora_rank)
    values: B::Buffer, // heads' values (rows, head_count * value_length)
    chosen: B::Chosen, // positions, by the last layer that chose some
}

impl Kind for Latent {
    type Shape = Shape;
    type Scratch<B: Backend> = Scratch<B>;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let width = layer.width();
        let (q_a, q) = match shape.q_lora_rank {
            None => (None, layer.linear("attn_q", shape.queries(), width)?),
            Some(rank) => {
                let norm = layer.norm_of(NORM, "attn_q_a_norm", rank)?;
                let down = layer.linear("attn_q_a", rank, width)?;
                (Some((down, norm)), layer.linear("attn_q_b", shape.queries(), rank)?)
            }
        };
        let at = shape.queries() + shape.absorbed();
        let indexer = match (shape.own_indexer(), shape.q_lora_rank) {
            (None, _) => None,
            (Some(indexer), Some(rank)) => Some(indexer::Bound::bind(indexer, at, rank, layer)?),
            (Some(_), None) => {
                return Err(Error::unsupported(
                    "a choice of positions without a compressed query (q_lora_rank 0)",
                    "no published model has that",
                ));
            }
        };
        let heads = |name: &str, rows, cols| layer.slices(name, shape.head_count, rows, cols);
        Ok(Self {
            q_a,
            q,
            kv_a: layer.linear("attn_kv_a_mqa", shape.absorbed(), width)?,
            kv_a_norm: layer.norm_of(NORM, "attn_kv_a_norm", shape.kv_lora_rank)?,
            k_b: heads("attn_k_b.weight", shape.kv_lora_rank, shape.nope_length)?,
            v_b: heads("attn_v_b.weight", shape.value_length, shape.kv_lora_rank)?,
            output: layer.linear("attn_output", width, shape.head_count * shape.value_length)?,
            indexer,
            shape: shape.clone(),
        })
    }

    fn memory(shape: &Shape) -> Memory {
        let index_length = shape.own_indexer().map_or(0, |indexer| indexer.key_length);
        Memory::Pages(Pages { heads: 1, key_length: shape.absorbed(), value_length: 0, index_length })
    }

    fn scratch<B: Backend>(backend: &B) -> Scratch<B> {
        Scratch {
            joined: backend.buffer(0),
            compressed: backend.buffer(0),
            absorbed: backend.buffer(0),
            attended: backend.buffer(0),
            values: backend.buffer(0),
            chosen: backend.chosen(),
        }
    }

    fn scratch_columns(&self) -> usize {
        let shape = &self.shape;
        let latent = shape.absorbed() + shape.kv_lora_rank + shape.value_length;
        let joined = shape.queries() + shape.absorbed() + self.index_columns();
        joined + shape.q_lora_rank.unwrap_or(0) + shape.head_count * latent
    }

    fn matrices(&self) -> Vec<&Matrix> {
        let before = self.q_a.iter().map(|(linear, _)| linear).chain([&self.q, &self.kv_a]);
        let heads = self.k_b.iter().chain(&self.v_b);
        let index = self.indexer.iter().flat_map(indexer::Bound::matrices);
        let after = heads.chain([&self.output.matrix]);
        before.map(|linear| &linear.matrix).chain(index).chain(after).collect()
    }

    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        self.project(pass, half, scratch);
        self.absorb(pass, scratch);
        let Scratch { joined, absorbed, attended, values, chosen, .. } = scratch;
        let shape = &self.shape;
        let key = Span::one(shape.queries(), shape.absorbed());
        let step = AttentionStep {
            layer: half.layer,
            rows: pass.rows,
            queries: Span::pieces(0, shape.head_count, shape.absorbed()),
            keys: key,
            values: Span::NONE,
            index: self.indexer.as_ref().map_or(Span::NONE, indexer::Bound::key),
            value_length: shape.kv_lora_rank,
            scale: shape.scale,
            window: None,
            sinks: None,
        };
        pass.backend.store(&step, joined, pass.states);
        if let Some(indexer) = &self.indexer {
            indexer.choose(pass, half.layer, joined, chosen);
        }
        match shape.indexer {
            None => pass.backend.attention(&step, absorbed, pass.states, attended),
            Some(_) => pass.backend.attention_to(chosen, &step, absorbed, pass.states, attended),
        }
        let from = Span::pieces(0, shape.head_count, shape.kv_lora_rank);
        let to = Span::pieces(0, shape.head_count, shape.value_length);
        pass.resize(values, to.as_one().width);
        pass.backend.linear_heads(&self.v_b, attended, from, values, to);
        pass.linear(&self.output, values, half.added, 0);
        Ok(())
    }
}

impl Latent {
    fn index_columns(&self) -> usize {
        self.indexer.as_ref().map_or(0, indexer::Bound::columns)
    }

    /// Queries, the latent row and the rotated key, normed and turned, in a joined row.
    fn project<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) {
        let Scratch { joined, compressed, .. } = scratch;
        let shape = &self.shape;
        let at = shape.queries();
        pass.resize(joined, at + shape.absorbed() + self.index_columns());
        match &self.q_a {
            None => pass.linear(&self.q, half.normed, joined, 0),
            Some((down, norm)) => {
                pass.resize(compressed, down.matrix.rows);
                pass.linear(down, half.normed, compressed, 0);
                pass.backend.norm_span(norm, compressed, Span::one(0, down.matrix.rows));
                pass.linear(&self.q, compressed, joined, 0);
            }
        }
        pass.linear(&self.kv_a, half.normed, joined, at);
        pass.backend.norm_span(&self.kv_a_norm, joined, Span::one(at, shape.kv_lora_rank));
        let key = Span::one(at + shape.kv_lora_rank, shape.rope_length);
        for span in [shape.turned(), key] {
            pass.backend.rope(&pass.ropes[shape.rope], &half.angles[shape.rope], joined, span);
        }
        if let Some(indexer) = &self.indexer {
            indexer.project(pass, half, compressed, joined);
        }
    }

    /// Moves the queries into the latent space.
    fn absorb<B: Backend, O: Observe>(&self, pass: &mut Pass<'_, B, O>, scratch: &mut Scratch<B>) {
        let Scratch { joined, absorbed, .. } = scratch;
        let (shape, stride) = (&self.shape, self.shape.absorbed());
        pass.resize(absorbed, shape.head_count * stride);
        let nope = Span { at: 0, width: shape.nope_length, ..shape.turned() };
        let into = Span { at: 0, count: shape.head_count, width: shape.kv_lora_rank, stride };
        pass.backend.linear_heads(&self.k_b, joined, nope, absorbed, into);
        let turned = Span { at: shape.kv_lora_rank, stride, ..shape.turned() };
        pass.backend.copy_span(joined, shape.turned(), absorbed, turned);
    }
}
