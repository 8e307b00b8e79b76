//! What a forward is made of: the steps that a backend supplies.
//!
//! `cpu` is the fast one, `plain` its slow twin in simple loops over dequantized weights; both keep their rows in
//! host memory and share the row maths of `host.rs`.

mod along;
mod chosen;
mod cpu;
mod cuda;
mod entries;
mod host;
mod plain;
mod streams;

pub use cpu::Cpu;
pub use cuda::{Cuda, Missing, Setup, State as CudaState};
pub use host::HostBuffer;
pub use plain::Plain;

use super::matrix::{Linear, Matrix, NormWeights};
use super::moe::{Router, Routing, Shape};
use super::observe::Observe;
use super::pool::Pool;
use super::state::{Memory, State};
use super::step::{AttentionStep, Best, ChoiceStep, ConvStep, EntriesStep, Factor, Row, ScanStep, Span};
use super::streams::{Mixing, Streams};
use crate::error::Result;
use crate::experts::ExpertStore;
use crate::ops::{Activation, Rope};
use crate::quant::Format;
use std::borrow::Cow;
use std::sync::Arc;

/// Steps with a body here are not every backend's: one without them refuses models that need them ([`Cuda::supports`]).
const REFUSED: &str = "a model that needs this step is refused when it is opened";

/// The steps of a forward. Buffers are row-major matrices of f32; shapes have been checked when weights were bound.
pub trait Backend {
    /// Rows of activations.
    type Buffer;
    /// What one sequence keeps.
    type State: State;
    /// Which rows go to which experts.
    type Routing;
    /// Keeps other steps from beginning.
    type Exclusive<'b>
    where
        Self: 'b;
    /// A layer's turn at the expert store.
    type Turn<'s>;
    /// Which positions rows look at.
    type Chosen;

    /// An empty buffer, `width` wide.
    fn buffer(&self, width: usize) -> Self::Buffer;
    /// The state of a sequence without tokens, keys and values in `format`.
    ///
    /// # Errors
    /// When the format does not fit the model's head widths.
    fn state(&self, layers: &[Memory], format: &'static Format, pool: &Arc<Pool>) -> Result<Self::State>;
    /// No routing.
    fn routing(&self) -> Self::Routing;
    /// A routing where the program can read it.
    fn host_routing<'a>(&self, routing: &'a Self::Routing) -> Cow<'a, Routing>;
    /// No choice of positions.
    fn chosen(&self) -> Self::Chosen;
    /// Makes a routing one of no rows.
    fn forget(&self, routing: &mut Self::Routing);
    /// Gets ready for a step of these rows.
    ///
    /// # Errors
    /// When a device has no room for it.
    fn begin<'b, O: Observe>(
        &'b self,
        rows: &[Row],
        states: &mut [Self::State],
    ) -> Result<Self::Exclusive<'b>>;
    /// Finds the best tokens of the rows, where it can and they want no more than these.
    fn find_best(&self, rows: &[Row], logits: &Self::Buffer, best: &mut Self::Buffer);
    /// Waits until the step is done; the program can read its best tokens then, or where there are none its logits.
    ///
    /// # Errors
    /// The first failure of a device since [`Backend::begin`].
    fn finish(&self, logits: &mut Self::Buffer, best: &mut Self::Buffer) -> Result<()>;
    /// A row's best tokens after [`Backend::finish`], where they were found.
    fn best<'a>(&self, best: &'a Self::Buffer, row: usize) -> Option<Best<'a>>;
    /// Brings the logits to the program, too.
    ///
    /// # Errors
    /// When a device fails.
    fn fetch(&self, logits: &mut Self::Buffer) -> Result<()>;
    /// A row of logits after [`Backend::finish`].
    fn logits<'a>(&self, logits: &'a Self::Buffer, row: usize) -> &'a [f32];
    /// Rows of logits after [`Backend::finish`].
    fn logit_rows(&self, logits: &Self::Buffer) -> usize;
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
    /// Writes the batch's keys and values into the sequences' states.
    fn store(&self, step: &AttentionStep<'_>, qkv: &Self::Buffer, states: &mut [Self::State]);
    /// Attention of the batch over the states.
    fn attention(
        &self,
        step: &AttentionStep<'_>,
        queries: &Self::Buffer,
        states: &[Self::State],
        out: &mut Self::Buffer,
    );
    /// Chooses the positions that rows look at; `x` has the joined rows, whose keys have been stored. Who computes neither
    /// this nor [`Backend::attention_to`] refuses models that need it.
    fn choose(
        &self,
        _step: &ChoiceStep<'_>,
        _x: &Self::Buffer,
        _states: &[Self::State],
        _chosen: &mut Self::Chosen,
    ) {
        unreachable!("models that choose positions are refused");
    }
    /// [`Backend::attention`] over chosen positions.
    fn attention_to(
        &self,
        _chosen: &Self::Chosen,
        _step: &AttentionStep<'_>,
        _queries: &Self::Buffer,
        _states: &[Self::State],
        _out: &mut Self::Buffer,
    ) {
        unreachable!("models that choose positions are refused");
    }
    /// A causal convolution along each sequence, channel by channel, in place in `x`.
    fn convolve(&self, step: &ConvStep<'_>, x: &mut Self::Buffer, states: &mut [Self::State]);
    /// A linear recurrence with a matrix as state, row after row of each sequence.
    fn scan(&self, step: &ScanStep<'_>, x: &Self::Buffer, states: &mut [Self::State], out: &mut Self::Buffer);
    /// Multiplies pieces by what `factor` makes of pieces of the same size.
    fn multiply_span(&self, factor: Factor, x: &Self::Buffer, from: Span, out: &mut Self::Buffer, to: Span);
    /// Copies pieces within each row to others that do not overlap them.
    fn copy_within(&self, x: &mut Self::Buffer, from: Span, to: Span);
    /// The activation between up and down, in place in `up`.
    fn activate(&self, activation: Activation, gate: Option<&Self::Buffer>, up: &mut Self::Buffer);
    /// Chooses experts from the rows and their router logits.
    fn route(
        &self,
        by: (&Shape, &Router),
        drop: bool,
        logits: (&[Row], &Self::Buffer),
        routing: &mut Self::Routing,
    );
    /// Begins a layer's turn at the store: what the batch wants and is not in memory is asked for.
    ///
    /// # Errors
    /// When the system has no room for it.
    fn ask<'s>(
        &self,
        store: &'s ExpertStore,
        layer: usize,
        routing: &Self::Routing,
    ) -> Result<Self::Turn<'s>>;
    /// Adds the weighted outputs of the routed experts to `step.added`, as their weights arrive, and ends the turn.
    ///
    /// # Errors
    /// When an expert cannot be read.
    fn collect<O: Observe>(
        &self,
        turn: Self::Turn<'_>,
        step: ExpertStep<'_, Self>,
        observe: &mut O,
    ) -> Result<()>;
    /// Multiplies each row of `out` by the sigmoid of one output of `gate`.
    fn weigh_by_sigmoid(&self, gate: &Linear, x: &mut Self::Buffer, out: &mut Self::Buffer);
    /// `x += added * scale`.
    fn add(&self, x: &mut Self::Buffer, added: &Self::Buffer, scale: f32);
    /// Makes weights of streams out of raw sums, and of all streams in `x` what is read of them.
    fn open_streams(
        &self,
        _by: (Streams, &Mixing),
        _weights: &mut Self::Buffer,
        _x: &Self::Buffer,
        _out: &mut Self::Buffer,
    ) {
        unreachable!("{REFUSED}");
    }
    /// Mixes the streams in `x` by weights that were made so, and adds a half's output to each.
    fn close_streams(
        &self,
        _streams: Streams,
        _weights: &Self::Buffer,
        _added: &Self::Buffer,
        _x: &mut Self::Buffer,
    ) {
        unreachable!("{REFUSED}");
    }
    /// Takes the batch's keys into the sequences' states, a row after the other, and attends to windows and entries; results
    /// are turned back by their rows' angles.
    fn attend_entries(
        &self,
        _step: &EntriesStep<'_>,
        _x: &Self::Buffer,
        _angles: &Self::Buffer,
        _states: &mut [Self::State],
        _out: &mut Self::Buffer,
    ) {
        unreachable!("{REFUSED}");
    }
    /// The rows that want logits, in order.
    fn select(&self, rows: &[Row], x: &Self::Buffer, out: &mut Self::Buffer);
    /// `x *= factor`.
    fn scale(&self, x: &mut Self::Buffer, factor: f32);
    /// `x = cap * tanh(x / cap)`.
    fn cap(&self, x: &mut Self::Buffer, cap: f32);
}

/// One layer's routed experts over a batch.
pub struct ExpertStep<'a, B: Backend + ?Sized> {
    /// Where the weights are.
    pub store: &'a ExpertStore,
    /// Whose experts.
    pub layer: usize,
    /// Their sizes.
    pub experts: &'a Shape,
    /// Which rows go to which.
    pub routing: &'a B::Routing,
    /// A guess of the next layer's routing; no rows where none is wanted.
    pub ahead: &'a B::Routing,
    /// What all of them read.
    pub normed: &'a mut B::Buffer,
    /// What they compute.
    pub hidden: &'a mut Hidden<B::Buffer>,
    /// Where it is added.
    pub added: &'a mut B::Buffer,
}

/// What the chosen experts compute, a row for each choice of each row.
pub struct Hidden<T> {
    /// `(rows * expert_used_count, length)`.
    pub gate: T,
    /// `(rows * expert_used_count, length)`.
    pub up: T,
    /// `(rows * expert_used_count, embedding_length)`.
    pub out: T,
}
