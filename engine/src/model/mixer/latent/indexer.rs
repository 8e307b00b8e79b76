//! What chooses the positions that latent attention looks at (DeepSeek-V3.2, section 2.1): a key per position and a few
//! small query heads, whose scores pick the best. Layers may take over what the one before them chose.

use super::super::super::backend::Backend;
use super::super::super::binder::LayerBinder;
use super::super::super::keys::Keys;
use super::super::super::kinds::{Half, Pass};
use super::super::super::limit;
use super::super::super::matrix::{Linear, Matrix, Norm, NormWeights};
use super::super::super::observe::Observe;
use super::super::super::step::{ChoiceStep, Span};
use crate::error::Result;

/// On keys: torch's LayerNorm with an epsilon of its own, whatever the file says of others.
const NORM: Norm = Norm::Layer { epsilon: 1e-6 };

/// How positions are chosen.
#[derive(Clone, Debug)]
pub struct Indexer {
    /// Query heads.
    pub head_count: usize,
    /// Width of a query and of the key that a position has.
    pub key_length: usize,
    /// Positions that a row looks at.
    pub most: usize,
    /// Index into [`Config::ropes`](super::super::super::Config::ropes); turns the first columns.
    pub rope: usize,
    /// Whose choice counts.
    pub choice: Choice,
}

/// Whose choice of positions counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The layer's own.
    Own,
    /// That of the last layer which made one.
    Before,
}

impl Indexer {
    /// As the keys `attention.indexer.*` have it.
    ///
    /// # Errors
    /// When one is missing or out of bounds.
    pub(in crate::model) fn read(keys: &Keys<'_>, rope: usize, choice: Choice) -> Result<Self> {
        Ok(Self {
            head_count: keys.require("attention.indexer.head_count", limit::HEADS)?,
            key_length: keys.require("attention.indexer.key_length", limit::WIDTH)?,
            most: keys.require("attention.indexer.top_k", limit::CONTEXT)?,
            rope,
            choice,
        })
    }

    /// Columns of the key, the query heads and their weights in a joined row.
    fn columns(&self) -> usize {
        self.key_length + self.head_count * (self.key_length + 1)
    }
}

/// A layer's own indexer with its tensors.
pub(super) struct Bound {
    indexer: Indexer,
    at: usize, // column of the key; the queries and their weights follow
    key: Linear,
    key_norm: NormWeights,
    queries: Linear, // from the compressed query
    weights: Linear, // one per head
}

impl Bound {
    /// The tensors; the key stands behind `at` columns of a joined row, queries come from rows of `rank`.
    pub(super) fn bind(indexer: &Indexer, at: usize, rank: usize, layer: &LayerBinder<'_>) -> Result<Self> {
        let (width, length, heads) = (layer.width(), indexer.key_length, indexer.head_count);
        Ok(Self {
            at,
            key: layer.linear("indexer.attn_k", length, width)?,
            key_norm: layer.norm_of(NORM, "indexer.k_norm", length)?,
            queries: layer.linear("indexer.attn_q_b", heads * length, rank)?,
            weights: layer.linear("indexer.proj", heads, width)?,
            indexer: indexer.clone(),
        })
    }

    pub(super) fn columns(&self) -> usize {
        self.indexer.columns()
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        [&self.key, &self.queries, &self.weights].into_iter().map(|linear| &linear.matrix)
    }

    /// The key in a joined row.
    pub(super) fn key(&self) -> Span {
        Span::one(self.at, self.indexer.key_length)
    }

    fn queries(&self) -> Span {
        Span::pieces(self.at + self.indexer.key_length, self.indexer.head_count, self.indexer.key_length)
    }

    /// Key, queries and weights, normed and turned, in the joined rows.
    pub(super) fn project<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        compressed: &mut B::Buffer,
        joined: &mut B::Buffer,
    ) {
        let (key, queries, rope) = (self.key(), self.queries(), self.indexer.rope);
        pass.linear(&self.key, half.normed, joined, key.at);
        pass.backend.norm_span(&self.key_norm, joined, key);
        pass.linear(&self.queries, compressed, joined, queries.at);
        pass.linear(&self.weights, half.normed, joined, queries.end());
        let width = pass.ropes[rope].dims();
        for span in [Span { width, ..key }, Span { width, ..queries }] {
            pass.backend.rope(&pass.ropes[rope], &half.angles[rope], joined, span);
        }
    }

    /// Chooses the positions of all rows, whose keys have been stored.
    pub(super) fn choose<B: Backend, O: Observe>(
        &self,
        pass: &Pass<'_, B, O>,
        layer: usize,
        joined: &B::Buffer,
        chosen: &mut B::Chosen,
    ) {
        let queries = self.queries();
        let (weights, most) = (queries.end(), self.indexer.most);
        let step = ChoiceStep { layer, rows: pass.rows, queries, weights, most };
        pass.backend.choose(&step, joined, pass.states, chosen);
    }
}
