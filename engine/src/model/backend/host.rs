//! Rows in host memory and the row maths that both host backends share.

use super::super::kv_cache::KvCache;
use super::super::matrix::{Matrix, Norm, NormWeights};
use super::super::moe::{Router, Routing, Shape, Weighing};
use super::super::step::{AttentionStep, Factor, Row, Span};
use crate::kernels::{Inputs, Kernel, Pick, Picks, Quantized, Share, SlotCodes, grow, quantize_slots};
use crate::ops::{Activation, Rope, exp, layer_norm, rms_norm, rotate};
use crate::quant::Grain;
use crate::simd::Isa;
use crate::threads::Team;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Row-major f32 rows with their quantized twins, each made when a kernel first asks for it.
#[derive(Default)]
pub struct HostBuffer {
    values: Vec<f32>,
    rows: usize,
    width: usize,
    /// By [`Grain`].
    coded: [Coded; 2],
    picks: Vec<Pick>,
}

/// Quantized rows.
#[derive(Default)]
struct Coded {
    codes: Vec<i8>,
    extras: Vec<u32>,
    /// Whether they are those of the values.
    is_current: bool,
}

impl Coded {
    /// Makes room for so many rows.
    fn resize(&mut self, rows: usize, width: usize) {
        grow(&mut self.codes, rows * width);
        grow(&mut self.extras, rows * Quantized::extras_len(width));
    }
}

impl HostBuffer {
    pub(super) fn new(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All rows.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.rows * self.width]
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values()[row * self.width..][..self.width]
    }

    /// One row, to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let width = self.width;
        &mut self.values_mut()[row * width..][..width]
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        self.forget_codes();
        &mut self.values[..self.rows * self.width]
    }

    pub(super) fn resize(&mut self, rows: usize, width: usize) {
        (self.rows, self.width) = (rows, width);
        self.forget_codes();
        grow(&mut self.values, rows * width);
    }

    fn forget_codes(&mut self) {
        self.coded.iter_mut().for_each(|coded| coded.is_current = false);
    }

    /// One pick per row: every input to the output row of the same number.
    pub(super) fn picks(&mut self) -> Picks<'_> {
        let known = self.picks.len();
        self.picks.extend((known..self.rows).map(|row| Pick { input: row as u32, output: row as u32 }));
        Picks::new(&self.picks[..self.rows])
    }

    /// The rows as a kernel wants them.
    pub(super) fn prepare(&mut self, team: &Team, kernel: Kernel) {
        self.picks();
        let Some(grain) = kernel.inputs() else { return };
        let Self { values, rows, width, coded, .. } = self;
        let (rows, width, coded) = (*rows, *width, &mut coded[grain as usize]);
        if coded.is_current {
            return;
        }
        coded.resize(rows, width);
        let (codes, extras) = (&mut coded.codes[..rows * width], &mut coded.extras);
        team.each_row_pair(
            (codes, width),
            (extras, Quantized::extras_len(width)),
            8,
            |row, codes, extras| {
                kernel.quantize(&values[row * width..][..width], &mut Quantized::new(codes, extras));
            },
        );
        coded.is_current = true;
    }

    /// [`HostBuffer::prepare`] for the slots of some experts only; the others must not be read.
    pub(super) fn prepare_slots(&mut self, team: &Team, kernel: Kernel, share: Share<'_>) {
        self.picks();
        let Some(grain) = kernel.inputs() else { return };
        let coded = &mut self.coded[grain as usize];
        coded.resize(self.rows, self.width);
        let codes = SlotCodes { width: self.width, codes: &mut coded.codes, extras: &mut coded.extras };
        quantize_slots(team, share, kernel, &self.values, codes);
        coded.is_current = true;
    }

    /// After [`HostBuffer::prepare`].
    pub(super) fn inputs(&self) -> (Inputs<'_>, Picks<'_>) {
        let mut inputs = Inputs::floats(&self.values, self.width);
        for grain in [Grain::Fine, Grain::Coarse] {
            let coded = &self.coded[grain as usize];
            if coded.is_current {
                inputs = inputs.with_codes(grain, &coded.codes, &coded.extras);
            }
        }
        (inputs, Picks::new(&self.picks[..self.rows]))
    }
}

/// Calls `work(row number, row)` for every row, in parallel where there are many.
pub(super) fn each_row(team: &Team, x: &mut HostBuffer, work: impl Fn(usize, &mut [f32]) + Sync) {
    let width = x.width;
    if x.rows < 4 {
        x.values_mut().chunks_exact_mut(width).enumerate().for_each(|(row, values)| work(row, values));
        return;
    }
    let rows_per_task = x.rows.div_ceil(team.threads() * 4);
    team.each_row(x.values_mut(), width, rows_per_task, work);
}

fn pieces(row: &mut [f32], span: Span) -> impl Iterator<Item = &mut [f32]> {
    row[span.at..].chunks_mut(span.stride.max(1)).take(span.count).map(move |piece| &mut piece[..span.width])
}

pub(super) fn embed(team: &Team, table: &Matrix, rows: &[Row], scale: f32, out: &mut HostBuffer) {
    out.resize(rows.len(), table.cols);
    each_row(team, out, |row, values| {
        table.view().row_to_f32(rows[row].token as usize, values);
        if scale != 1.0 {
            values.iter_mut().for_each(|value| *value *= scale);
        }
    });
}

pub(super) fn add_positions(scratch: &Kept<HostBuffer>, table: &Matrix, rows: &[Row], x: &mut HostBuffer) {
    let mut position = scratch.take();
    position.resize(1, table.cols);
    for (row, values) in rows.iter().zip(x.values_mut().chunks_exact_mut(table.cols)) {
        table.view().row_to_f32(row.position, position.values_mut());
        values.iter_mut().zip(position.values()).for_each(|(value, position)| *value += position);
    }
    scratch.give(position);
}

/// A buffer for the inside of a step, kept from one to the next so that none is allocated per token.
#[derive(Default)]
pub(super) struct Kept<T>(Mutex<T>);

impl<T: Default> Kept<T> {
    /// The buffer with whatever it holds; an empty one while it is in use.
    pub(super) fn take(&self) -> T {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Puts it back.
    pub(super) fn give(&self, buffer: T) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = buffer;
    }
}

pub(super) fn angles(rope: &Rope, rows: &[Row], out: &mut HostBuffer) {
    out.resize(rows.len(), rope.dims());
    for (row, angles) in rows.iter().zip(out.values_mut().chunks_exact_mut(rope.dims())) {
        rope.angles(row.position, angles);
    }
}

pub(super) fn norm_piece(norm: &NormWeights, piece: &mut [f32]) {
    match norm.kind {
        Norm::Rms { epsilon } => rms_norm(piece, &norm.weight, epsilon),
        Norm::Layer { epsilon } => layer_norm(piece, &norm.weight, norm.bias.as_deref(), epsilon),
    }
}

pub(super) fn norm(team: &Team, norm: &NormWeights, x: &HostBuffer, out: &mut HostBuffer) {
    out.resize(x.rows, x.width);
    each_row(team, out, |row, values| {
        values.copy_from_slice(x.row(row));
        norm_piece(norm, values);
    });
}

pub(super) fn norm_span(team: &Team, norm: &NormWeights, x: &mut HostBuffer, span: Span) {
    each_row(team, x, |_, row| pieces(row, span).for_each(|piece| norm_piece(norm, piece)));
}

pub(super) fn copy_span(team: &Team, x: &HostBuffer, from: Span, out: &mut HostBuffer, to: Span) {
    each_row(team, out, |row, values| {
        for (i, piece) in pieces(values, to).enumerate() {
            piece.copy_from_slice(&x.row(row)[from.at + i * from.stride..][..from.width]);
        }
    });
}

pub(super) fn rope(team: &Team, rope: &Rope, angles: &HostBuffer, x: &mut HostBuffer, span: Span) {
    each_row(team, x, |row, values| {
        pieces(values, span).for_each(|piece| rotate(rope.style, piece, angles.row(row)));
    });
}

pub(super) fn store(step: &AttentionStep<'_>, qkv: &HostBuffer, states: &mut [KvCache]) {
    for (i, row) in step.rows.iter().enumerate() {
        let values = qkv.row(i);
        let span = |span: Span| &values[span.at..span.at + span.count * span.width];
        states[row.sequence].store(step.layer, row.position, [step.keys, step.values, step.index].map(span));
    }
}

pub(super) fn multiply_span(
    team: &Team,
    factor: Factor,
    (x, from): (&HostBuffer, Span),
    (out, to): (&mut HostBuffer, Span),
) {
    each_row(team, out, |row, values| {
        for (i, piece) in pieces(values, to).enumerate() {
            let by = &x.row(row)[from.at + i * from.stride..][..from.width];
            piece.iter_mut().zip(by).for_each(|(value, by)| *value *= factor.of(*by));
        }
    });
}

pub(super) fn copy_within(team: &Team, x: &mut HostBuffer, from: Span, to: Span) {
    each_row(team, x, |_, row| {
        for i in 0..from.count {
            let start = from.at + i * from.stride;
            row.copy_within(start..start + from.width, to.at + i * to.stride);
        }
    });
}

pub(super) fn cap(team: &Team, x: &mut HostBuffer, cap: f32) {
    // tanh(y) = 1 - 2 / (e^(2y) + 1)
    let capped = |x: f32| cap * (1.0 - 2.0 / (exp(2.0 * x / cap) + 1.0));
    each_row(team, x, |_, row| row.iter_mut().for_each(|value| *value = capped(*value)));
}

pub(super) fn activate(
    (team, isa): (&Team, Isa),
    activation: Activation,
    gate: Option<&HostBuffer>,
    up: &mut HostBuffer,
) {
    each_row(team, up, |row, values| activation.combine(isa, gate.map(|gate| gate.row(row)), values));
}

pub(super) fn route(
    (experts, router): (&Shape, &Router),
    drop: bool,
    (rows, logits): (&[Row], &HostBuffer),
    routing: &mut Routing,
) {
    let (choice_bias, expert_scale) = (router.choice_bias.as_deref(), router.expert_scale.as_deref());
    let by_token = router.table.as_ref().map(|table| (table, rows));
    routing.route(logits.values(), experts, Weighing { choice_bias, expert_scale, by_token }, drop);
}

pub(super) fn add(team: &Team, x: &mut HostBuffer, added: &HostBuffer, scale: f32) {
    each_row(team, x, |row, values| {
        for (value, added) in values.iter_mut().zip(added.row(row)) {
            *value += added * scale;
        }
    });
}

pub(super) fn select(rows: &[Row], x: &HostBuffer, out: &mut HostBuffer) {
    let wanted = rows.iter().enumerate().filter(|(_, row)| row.wants.logits());
    out.resize(wanted.clone().count(), x.width);
    for ((from, _), to) in wanted.zip(out.values_mut().chunks_exact_mut(x.width)) {
        to.copy_from_slice(x.row(from));
    }
}

/// Rows of as many sequences that have the bits that they have alone: AMX multiplies more inputs in other numbers.
const MOST_APART: usize = 23;

/// One step at a time, and whether its rows belong to different conversations.
#[derive(Default)]
pub(super) struct Step {
    exclusive: Mutex<()>,
    is_apart: AtomicBool,
}

impl Step {
    pub(super) fn begin(&self, rows: &[Row]) -> MutexGuard<'_, ()> {
        let guard = self.exclusive.lock().unwrap_or_else(PoisonError::into_inner);
        let are_all_alone = rows.windows(2).all(|two| two[0].sequence != two[1].sequence);
        self.is_apart.store(are_all_alone && rows.len() <= MOST_APART, Ordering::Relaxed);
        guard
    }

    /// Inputs as the step's rows want them.
    pub(super) fn inputs<'a>(&self, inputs: Inputs<'a>) -> Inputs<'a> {
        if self.is_apart.load(Ordering::Relaxed) { inputs.apart() } else { inputs }
    }
}

/// The steps that are the same on every host backend: `$self.team` runs them.
macro_rules! host_steps {
    () => {
        type Buffer = HostBuffer;
        type State = KvCache;
        type Routing = Routing;
        type Chosen = Chosen;
        type Exclusive<'b> = MutexGuard<'b, ()>;

        fn buffer(&self, width: usize) -> HostBuffer {
            HostBuffer::new(width)
        }
        fn state(&self, layers: &[Memory], format: &'static Format, pool: &Arc<Pool>) -> Result<KvCache> {
            KvCache::new(layers, format, pool)
        }
        fn routing(&self) -> Routing {
            Routing::default()
        }
        fn chosen(&self) -> Chosen {
            Chosen::default()
        }
        fn host_routing<'a>(&self, routing: &'a Routing) -> Cow<'a, Routing> {
            Cow::Borrowed(routing)
        }
        fn forget(&self, routing: &mut Routing) {
            routing.clear();
        }
        fn begin<O: Observe>(&self, rows: &[Row], _: &mut [KvCache]) -> Result<MutexGuard<'_, ()>> {
            Ok(self.step.begin(rows))
        }
        fn find_best(&self, _: &[Row], _: &HostBuffer, _: &mut HostBuffer) {}
        fn best<'a>(&self, _: &'a HostBuffer, _: usize) -> Option<Best<'a>> {
            None
        }
        fn finish(&self, _: &mut HostBuffer, _: &mut HostBuffer) -> Result<()> {
            Ok(())
        }
        fn fetch(&self, _: &mut HostBuffer) -> Result<()> {
            Ok(())
        }
        fn logits<'a>(&self, logits: &'a HostBuffer, row: usize) -> &'a [f32] {
            logits.row(row)
        }
        fn logit_rows(&self, logits: &HostBuffer) -> usize {
            logits.rows()
        }
        fn host<'a>(&self, buffer: &'a HostBuffer) -> Cow<'a, [f32]> {
            Cow::Borrowed(buffer.values())
        }
        fn resize(&self, buffer: &mut HostBuffer, rows: usize, width: usize) {
            buffer.resize(rows, width);
        }
        fn clear(&self, buffer: &mut HostBuffer, rows: usize) {
            buffer.resize(rows, buffer.width());
            buffer.values_mut().fill(0.0);
        }
        fn embed(&self, table: &Matrix, rows: &[Row], scale: f32, out: &mut HostBuffer) {
            host::embed(&self.team, table, rows, scale, out);
        }
        fn add_positions(&self, table: &Matrix, rows: &[Row], x: &mut HostBuffer) {
            host::add_positions(&self.scratch, table, rows, x);
        }
        fn angles(&self, rope: &Rope, rows: &[Row], out: &mut HostBuffer) {
            host::angles(rope, rows, out);
        }
        fn norm(&self, norm: &NormWeights, x: &HostBuffer, out: &mut HostBuffer) {
            host::norm(&self.team, norm, x, out);
        }
        fn norm_span(&self, norm: &NormWeights, x: &mut HostBuffer, span: Span) {
            host::norm_span(&self.team, norm, x, span);
        }
        fn copy_span(&self, x: &HostBuffer, from: Span, out: &mut HostBuffer, to: Span) {
            host::copy_span(&self.team, x, from, out, to);
        }
        fn rope(&self, rope: &Rope, angles: &HostBuffer, x: &mut HostBuffer, span: Span) {
            host::rope(&self.team, rope, angles, x, span);
        }
        fn store(&self, step: &AttentionStep<'_>, qkv: &HostBuffer, states: &mut [KvCache]) {
            host::store(step, qkv, states);
        }
        fn multiply_span(&self, factor: Factor, x: &HostBuffer, from: Span, out: &mut HostBuffer, to: Span) {
            host::multiply_span(&self.team, factor, (x, from), (out, to));
        }
        fn copy_within(&self, x: &mut HostBuffer, from: Span, to: Span) {
            host::copy_within(&self.team, x, from, to);
        }
        fn cap(&self, x: &mut HostBuffer, cap: f32) {
            host::cap(&self.team, x, cap);
        }
        fn activate(&self, activation: Activation, gate: Option<&HostBuffer>, up: &mut HostBuffer) {
            host::activate((&self.team, self.isa()), activation, gate, up);
        }
        fn route(
            &self,
            by: (&Shape, &Router),
            drop: bool,
            logits: (&[Row], &HostBuffer),
            routing: &mut Routing,
        ) {
            host::route(by, drop, logits, routing);
        }
        fn weigh_by_sigmoid(&self, gate: &Linear, x: &mut HostBuffer, out: &mut HostBuffer) {
            let mut weights = self.scratch.take();
            weights.resize(x.rows(), 1);
            self.linear(gate, x, &mut weights, 0);
            host::each_row(&self.team, out, |row, values| {
                let weight = crate::ops::sigmoid(weights.row(row)[0]);
                values.iter_mut().for_each(|value| *value *= weight);
            });
            self.scratch.give(weights);
        }
        fn add(&self, x: &mut HostBuffer, added: &HostBuffer, scale: f32) {
            host::add(&self.team, x, added, scale);
        }
        fn open_streams(
            &self,
            by: (Streams, &Mixing),
            weights: &mut HostBuffer,
            x: &HostBuffer,
            out: &mut HostBuffer,
        ) {
            streams::open(&self.team, by, weights, x, out);
        }
        fn close_streams(&self, of: Streams, weights: &HostBuffer, added: &HostBuffer, x: &mut HostBuffer) {
            streams::close(&self.team, of, weights, added, x);
        }
        fn select(&self, rows: &[Row], x: &HostBuffer, out: &mut HostBuffer) {
            host::select(rows, x, out);
        }
        fn scale(&self, x: &mut HostBuffer, factor: f32) {
            host::each_row(&self.team, x, |_, row| row.iter_mut().for_each(|value| *value *= factor));
        }
    };
}
pub(super) use host_steps;
