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

use super::config::{Config, Experts};
use super::moe::Routing;
use super::observe::Observe;
use super::transformer::{AttentionStep, Row, Span};
use super::weights::{Linear, Matrix, NormWeights};
use super::workspace::Workspace;
use crate::error::Result;
use crate::experts::ExpertStore;
use crate::ops::{Activation, Rope};
use crate::quant::Format;
use std::borrow::Cow;

/// The steps of a forward. Buffers are row-major matrices of f32; shapes have been checked when weights were bound.
pub trait Backend {
    /// Rows of activations.
    type Buffer;
    /// One conversation's keys and values.
    type Cache;

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
    /// The activation between up and down, in place in `up`.
    fn activate(&self, activation: Activation, gate: Option<&Self::Buffer>, up: &mut Self::Buffer);
    /// Chooses experts from router logits.
    fn route(
        &self,
        experts: &Experts,
        choice_bias: Option<&[f32]>,
        drop: bool,
        logits: &Self::Buffer,
        routing: &mut Routing,
    );
    /// Adds the weighted outputs of the routed experts to `ws.added`.
    fn experts<O: Observe>(
        &self,
        store: &ExpertStore,
        layer: usize,
        experts: &Experts,
        ws: &mut Workspace<Self::Buffer>,
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
