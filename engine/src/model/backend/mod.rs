//! What a forward is made of: the steps that a backend supplies.
//!
//! `cpu` is the fast one, `plain` its slow twin in simple loops over dequantized weights; both keep their rows in
//! host memory and share the row maths of `host.rs`.

mod cpu;
mod host;
mod plain;

pub use cpu::Cpu;
pub use host::HostBuffer;
pub use plain::Plain;

use super::config::Config;
use super::ffn::experts::{Hidden, Shape};
use super::moe::Routing;
use super::observe::Observe;
use super::step::{AttentionStep, Row, Span};
use super::weights::{Linear, Matrix, NormWeights};
use crate::error::Result;
use crate::experts::ExpertStore;
use crate::ops::{Activation, Rope};
use crate::quant::Format;
use std::borrow::Cow;

/// The steps of a forward. Buffers are row-major matrices of f32; shapes have been checked when weights were bound.
pub trait Backend {
    /// Rows of activations.
    type Buffer;
    /// What one conversation keeps.
    type Cache;
    /// A layer's turn at the expert store.
    type Turn<'s>;

    /// An empty buffer, `width` wide.
    fn buffer(&self, width: usize) -> Self::Buffer;
    /// An empty cache in `format`.
    fn cache(&self, config: &Config, format: &'static Format) -> Result<Self::Cache>;
    /// The rows where the program can read them.
    fn host<'a>(&self, buffer: &'a Self::Buffer) -> Cow<'a, [f32]>;
    /// Gives a buffer another shape; contents are undefined.
    fn resize(&self, buffer: &mut Self::Buffer, rows: usize, width: usize);
    /// `rows` rows of zeros.
    fn clear(&self, buffer: &mut Self::Buffer, rows: usize);

    /// Rows of the embedding table, times `scale`.
    fn embed(&self, table: &Matrix, rows: &[Row], scale: f32, out: &mut Self::Buffer);
    /// Adds the row of each position.
    fn add_positions(&self, table: &Matrix, rows: &[Row], x: &mut Self::Buffer);
    /// Cosines and sines of each row's position.
    fn angles(&self, rope: &Rope, rows: &[Row], out: &mut Self::Buffer);
    /// Normalised rows.
    fn norm(&self, norm: &NormWeights, x: &Self::Buffer, out: &mut Self::Buffer);
    /// Normalises each piece of each row in place.
    fn norm_span(&self, norm: &NormWeights, x: &mut Self::Buffer, span: Span);
    /// `out[.., at..at + outputs] = x * matrix + bias`.
    fn linear(&self, linear: &Linear, x: &mut Self::Buffer, out: &mut Self::Buffer, at: usize);
    /// One matrix per piece of the row.
    fn linear_heads(&self, heads: &[Matrix], x: &Self::Buffer, from: Span, out: &mut Self::Buffer, to: Span);
    /// Copies pieces from one buffer's rows to another's.
    fn copy_span(&self, x: &Self::Buffer, from: Span, out: &mut Self::Buffer, to: Span);
    /// Turns each piece by its row's angles.
    fn rope(&self, rope: &Rope, angles: &Self::Buffer, x: &mut Self::Buffer, span: Span);
    /// Writes the batch's keys and values into the caches.
    fn store(&self, step: &AttentionStep<'_>, qkv: &Self::Buffer, caches: &mut [&mut Self::Cache]);
    /// Attention of the batch over the caches.
    fn attention(
        &self,
        step: &AttentionStep<'_>,
        queries: &Self::Buffer,
        caches: &[&mut Self::Cache],
        out: &mut Self::Buffer,
    );
    /// A recurrence: `step` changes a sequence's state of a layer and a row of `x`, row after row of each sequence.
    fn recur(
        &self,
        layer: usize,
        rows: &[Row],
        x: &mut Self::Buffer,
        caches: &mut [&mut Self::Cache],
        step: &dyn Fn(&mut [f32], &mut [f32]),
    );
    /// The activation between up and down, in place in `up`.
    fn activate(&self, activation: Activation, gate: Option<&Self::Buffer>, up: &mut Self::Buffer);
    /// Chooses experts from router logits.
    fn route(
        &self,
        experts: &Shape,
        choice_bias: Option<&[f32]>,
        drop: bool,
        logits: &Self::Buffer,
        routing: &mut Routing,
    );
    /// Begins a layer's turn at the store: what the batch wants and is not in memory is asked for.
    ///
    /// # Errors
    /// When the system has no room for it.
    fn ask<'s>(&self, store: &'s ExpertStore, layer: usize, routing: &Routing) -> Result<Self::Turn<'s>>;
    /// Adds the weighted outputs of the routed experts to `step.added`, as their weights arrive, and ends the turn.
    ///
    /// # Errors
    /// When an expert cannot be read.
    fn collect<O: Observe>(
        &self,
        turn: Self::Turn<'_>,
        step: ExpertStep<'_, Self::Buffer>,
        observe: &mut O,
    ) -> Result<()>;
    /// Multiplies each row of `out` by the sigmoid of one output of `gate`.
    fn weigh_by_sigmoid(&self, gate: &Linear, x: &mut Self::Buffer, out: &mut Self::Buffer);
    /// `x += added * scale`.
    fn add(&self, x: &mut Self::Buffer, added: &Self::Buffer, scale: f32);
    /// The rows that want logits, in order.
    fn select(&self, rows: &[Row], x: &Self::Buffer, out: &mut Self::Buffer);
    /// `x *= factor`.
    fn scale(&self, x: &mut Self::Buffer, factor: f32);
}

/// One layer's routed experts over a batch.
pub struct ExpertStep<'a, T> {
    /// Where the weights are.
    pub store: &'a ExpertStore,
    /// Whose experts.
    pub layer: usize,
    /// Their sizes.
    pub experts: &'a Shape,
    /// Which rows go to which.
    pub routing: &'a Routing,
    /// A guess of the next layer's routing; no rows where none is wanted.
    pub ahead: &'a Routing,
    /// What all of them read.
    pub normed: &'a mut T,
    /// What they compute.
    pub hidden: &'a mut Hidden<T>,
    /// Where it is added.
    pub added: &'a mut T,
}
