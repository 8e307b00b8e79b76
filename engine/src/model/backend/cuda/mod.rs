//! The backend of a card: every step is a kernel, and weights, rows and sequences live in the card's memory.
//!
//! `memory.rs` has what a step and a sequence keep there, `experts.rs` the routed experts, `missing.rs` those that are
//! elsewhere, `recurrent.rs` what carries a state along, `adapters.rs` what is added to matrices, `graphs.rs` steps that
//! come again. A step's failure stays with the kernels until `finish`, which returns it; nothing is started after it.

mod adapters;
mod experts;
mod graphs;
mod memory;
mod missing;
mod recurrent;

use super::super::Model;
use super::super::matrix::{Linear, Matrix, Norm, NormWeights};
use super::super::moe::{Gating, Router, Routing, Shape, capacity_of};
use super::super::observe::Observe;
use super::super::pool::Pool;
use super::super::state;
use super::super::step::{AttentionStep, Best, ConvStep, Factor, Row, ScanStep, Span};
use super::{Backend, ExpertStep};
use crate::cuda::{
    AttentionBy, Device, Kernels, MOST_ROWS, MatrixAt, Memory, NormAt, Pieces, RouteBy, Rows, StepAt, Vector,
    lock, tokens_of,
};
use crate::error::Result;
use crate::experts::{ExpertStore, Plan};
use crate::kernels::{Dispatch, Layout};
use crate::ops::{Activation, Rope, RopeStyle};
use crate::quant::Format;
use crate::simd::Isa;
use adapters::Adapters;
use experts::Bank;
use graphs::Graphs;
pub use memory::State;
use memory::{DeviceRouting, Places, Step, best_at};
pub use missing::Missing;
use missing::{Away, DeviceTurn, Host};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Kernels on a card.
pub struct Cuda {
    kernels: Kernels,
    isa: Isa,
    step: Mutex<Step>,
    graphs: Mutex<Graphs>,
    current: Mutex<Option<(graphs::Shape, graphs::Plan)>>, // the step that has begun, where it may come again
    scratch: Mutex<Vec<Rows>>,                             // for the inside of steps
    addresses: Mutex<HashMap<usize, Memory>>, // of matrices that are used together, by the first one's
    bank: Mutex<Bank>,
    adapters: Mutex<Adapters>,
    host: Option<Mutex<Host>>, // where not all experts are on the card
    exclusive: Mutex<()>,
    max_pages: usize,
}

/// How a model is laid out on a card.
pub struct Setup<'p> {
    /// Positions of a session.
    pub context_length: usize,
    /// Weights lie as the CPU's kernels of this set want them, so that an expert is copied as it is in the store.
    pub(crate) isa: Isa,
    /// Slots of experts on the card.
    pub experts: &'p Plan,
    /// Who computes the others.
    pub missing: Missing,
    /// Threads of the processor that do.
    pub threads: usize,
}

impl From<Span> for Pieces {
    fn from(Span { at, count, width, stride }: Span) -> Self {
        Self { at, count, width, stride }
    }
}

impl Cuda {
    /// Brings a model's weights onto a card.
    ///
    /// # Errors
    /// When the card has no room, or the driver refuses.
    pub fn new(device: Device, model: &Model, setup: &Setup<'_>) -> Result<Self> {
        let (weights, isa) = (&model.weights, setup.isa);
        let kernels = Kernels::load(device, &model.formats())?;
        let mut known: HashMap<*const u8, Arc<_>> = HashMap::new();
        let mut packed = vec![];
        let tables = [Some(&weights.token_embedding), weights.position_embedding.as_ref()];
        for matrix in weights.dense().chain(tables.into_iter().flatten()) {
            let home = match known.get(&matrix.bytes.as_ptr()) {
                Some(home) => Arc::clone(home),
                None => {
                    experts::pack(matrix.in_file(), isa, &mut packed);
                    Arc::new(kernels.device().upload(&packed)?)
                }
            };
            known.insert(matrix.bytes.as_ptr(), home.clone());
            matrix.home.get_or_init(|| home);
        }
        let layers = model.config.layers.len();
        let bank = Bank::new(kernels.device(), &weights.experts, layers, setup.experts, isa)?;
        let max_pages = setup.context_length.div_ceil(super::super::PAGE);
        let step = Mutex::new(Step::new(kernels.device()));
        Ok(Self {
            kernels,
            isa,
            step,
            graphs: Mutex::default(),
            current: Mutex::default(),
            scratch: Mutex::default(),
            addresses: Mutex::default(),
            bank: Mutex::new(bank),
            adapters: Mutex::default(),
            host: (!setup.experts.holds_all())
                .then(|| Mutex::new(Host::new(isa, setup.threads, setup.missing))),
            exclusive: Mutex::default(),
            max_pages,
        })
    }

    /// The card.
    pub fn device(&self) -> &Device {
        self.kernels.device()
    }

    fn places(&self) -> Places {
        lock(&self.step).places()
    }

    fn step_at(&self) -> StepAt {
        self.places().step.expect("a step has begun")
    }

    fn vector(&self, vector: Option<&Vector>) -> u64 {
        vector.map_or(0, |vector| self.kernels.ok(vector.on(self.device())).unwrap_or(0))
    }

    fn norm_at(&self, norm: &NormWeights) -> NormAt {
        let (epsilon, is_layer_norm) = match norm.kind {
            Norm::Rms { epsilon } => (epsilon, false),
            Norm::Layer { epsilon } => (epsilon, true),
        };
        let (weight, bias) = (self.vector(Some(&norm.weight)), self.vector(norm.bias.as_ref()));
        NormAt { weight, bias, epsilon, is_layer_norm }
    }

    /// A matrix; the few that not every token passes are copied when one first does.
    fn matrix_at(&self, matrix: &Matrix) -> MatrixAt {
        let upload = || {
            let mut packed = vec![];
            experts::pack(matrix.in_file(), self.isa, &mut packed);
            let home = Arc::new(self.device().upload(&packed)?);
            Ok(matrix.home.get_or_init(|| home).address())
        };
        let home = matrix.home.get().map(|home| home.address());
        let bytes = home.or_else(|| self.kernels.ok(upload())).unwrap_or(0);
        let Matrix { format, rows, cols, .. } = *matrix;
        MatrixAt { format, rows, cols, is_panels: Layout::of(self.isa, format) == Layout::Panels, bytes }
    }

    /// Where the addresses of matrices are, made when they are first asked for.
    fn addresses_of(&self, matrices: &[Matrix]) -> u64 {
        let first = matrices.as_ptr() as usize;
        let mut known = lock(&self.addresses);
        if let Some(home) = known.get(&first) {
            return home.address();
        }
        let all: Vec<u64> = matrices.iter().map(|matrix| self.matrix_at(matrix).bytes).collect();
        let home = self.kernels.ok(self.device().upload(bytemuck::cast_slice(&all)));
        home.map_or(0, |home| known.entry(first).or_insert(home).address())
    }

    fn take_scratch(&self) -> Rows {
        lock(&self.scratch).pop().unwrap_or_else(|| Rows::new(0))
    }

    fn give_scratch(&self, rows: Rows) {
        lock(&self.scratch).push(rows);
    }
}

impl Backend for Cuda {
    type Buffer = Rows;
    type State = State;
    type Routing = DeviceRouting;
    type Turn<'s> = DeviceTurn<'s>;
    type Exclusive<'b> = MutexGuard<'b, ()>;
    type Chosen = ();

    fn buffer(&self, width: usize) -> Rows {
        Rows::new(width)
    }

    fn state(&self, layers: &[state::Memory], format: &'static Format, pool: &Arc<Pool>) -> Result<State> {
        State::new(self.device(), layers, format, self.max_pages, pool)
    }

    fn routing(&self) -> DeviceRouting {
        DeviceRouting::default()
    }

    fn chosen(&self) {}

    fn host_routing<'a>(&self, routing: &'a DeviceRouting) -> Cow<'a, Routing> {
        let DeviceRouting { used, experts, .. } = *routing;
        let choices = self.kernels.ok(routing.experts(self.device())).unwrap_or_default();
        let weights = self.kernels.ok(routing.weights(self.device())).unwrap_or_default();
        Cow::Owned(Routing::of(used, experts, &choices, &weights))
    }

    fn forget(&self, routing: &mut DeviceRouting) {
        routing.rows = 0;
    }

    fn begin<'b, O: Observe>(&'b self, rows: &[Row], states: &mut [State]) -> Result<MutexGuard<'b, ()>> {
        let exclusive = lock(&self.exclusive);
        // What is left of a step that failed.
        let _ = self.kernels.take_failure();
        let begun = self.try_begin(rows, states, !O::ACTIVE);
        if let Err(error) = begun {
            self.kernels.fail(error);
            self.finish(&mut Rows::new(0), &mut Rows::new(0))?;
        }
        Ok(exclusive)
    }

    fn find_best(&self, rows: &[Row], logits: &Rows, best: &mut Rows) {
        if best_at(rows).is_none() {
            self.kernels.resize(best, 0, 0);
            return;
        }
        let mut tops = self.take_scratch();
        self.kernels.best(logits, self.places().temperatures, &mut tops, best);
        self.give_scratch(tops);
    }

    fn finish(&self, logits: &mut Rows, best: &mut Rows) -> Result<()> {
        let finished = self.try_finish(logits, best);
        if finished.is_err() {
            // Nothing may use the stages any more.
            let _ = self.device().wait();
        }
        lock(&self.step).end();
        finished
    }

    fn best<'a>(&self, best: &'a Rows, row: usize) -> Option<Best<'a>> {
        let (tokens, logits, bound, total) = tokens_of(best.fetched(row)?)?;
        Some(Best { tokens, logits, bound, total })
    }

    fn fetch(&self, logits: &mut Rows) -> Result<()> {
        self.device().enter()?;
        logits.fetch(self.device()).map(drop)
    }

    fn logits<'a>(&self, logits: &'a Rows, row: usize) -> &'a [f32] {
        logits.fetched(row).expect("logits are fetched before they are read")
    }

    fn logit_rows(&self, logits: &Rows) -> usize {
        logits.rows()
    }

    fn host<'a>(&self, buffer: &'a Rows) -> Cow<'a, [f32]> {
        let mut values = vec![0f32; buffer.rows() * buffer.width()];
        self.kernels.ok(buffer.copy_to(self.device(), &mut values));
        Cow::Owned(values)
    }

    fn resize(&self, buffer: &mut Rows, rows: usize, width: usize) {
        self.kernels.resize(buffer, rows, width);
    }

    fn clear(&self, buffer: &mut Rows, rows: usize) {
        let width = buffer.width();
        self.kernels.resize(buffer, rows, width);
        self.kernels.clear(buffer);
    }

    fn embed(&self, table: &Matrix, rows: &[Row], scale: f32, out: &mut Rows) {
        self.kernels.resize(out, rows.len(), table.cols);
        self.kernels.embed(self.matrix_at(table), self.places().tokens, scale, false, out);
    }

    fn add_positions(&self, table: &Matrix, _: &[Row], x: &mut Rows) {
        self.kernels.embed(self.matrix_at(table), self.step_at().positions, 1.0, true, x);
    }

    fn angles(&self, rope: &Rope, rows: &[Row], out: &mut Rows) {
        self.kernels.resize(out, rows.len(), rope.dims());
        let mut angles = vec![0f32; rows.len() * rope.dims()];
        for (row, angles) in rows.iter().zip(angles.chunks_exact_mut(rope.dims())) {
            rope.angles(row.position, angles);
        }
        let copied = lock(&self.step).copy(out.place(), bytemuck::cast_slice(&angles));
        self.kernels.ok(copied);
    }

    fn norm(&self, norm: &NormWeights, x: &Rows, out: &mut Rows) {
        self.kernels.resize(out, x.rows(), x.width());
        self.kernels.norm(self.norm_at(norm), x, out);
    }

    fn norm_span(&self, norm: &NormWeights, x: &mut Rows, span: Span) {
        self.kernels.norm_span(self.norm_at(norm), x, span.into());
    }

    fn linear(&self, linear: &Linear, x: &mut Rows, out: &mut Rows, at: usize) {
        let width = out.width();
        if out.rows() != x.rows() {
            self.kernels.resize(out, x.rows(), width);
        }
        let bias = self.vector(linear.bias.as_ref());
        self.kernels.multiply(self.matrix_at(&linear.matrix), bias, x, out, at);
        if let Some(low_rank) = &linear.low_rank {
            self.add_adapter(low_rank, x, out, at);
        }
    }

    fn linear_heads(&self, heads: &[Matrix], x: &Rows, from: Span, out: &mut Rows, to: Span) {
        if x.rows() <= MOST_ROWS {
            let at = MatrixAt { bytes: 0, ..self.matrix_at(&heads[0]) };
            let addresses = self.addresses_of(heads);
            return self.kernels.multiply_heads((at, addresses), x, from.into(), out, to.into());
        }
        let mut input = self.take_scratch();
        self.kernels.resize(&mut input, x.rows(), from.width);
        for (i, head) in heads.iter().enumerate() {
            let piece = Pieces { at: from.at + i * from.stride, count: 1, ..from.into() };
            let whole = Pieces { at: 0, count: 1, width: from.width, stride: from.width };
            self.kernels.copy_span(x, piece, &mut input, whole);
            self.kernels.multiply(self.matrix_at(head), 0, &mut input, out, to.at + i * to.stride);
        }
        self.give_scratch(input);
    }

    fn copy_span(&self, x: &Rows, from: Span, out: &mut Rows, to: Span) {
        self.kernels.copy_span(x, from.into(), out, to.into());
    }

    fn rope(&self, rope: &Rope, angles: &Rows, x: &mut Rows, span: Span) {
        self.kernels.rope(angles, rope.style == RopeStyle::Neox, x, span.into());
    }

    fn store(&self, step: &AttentionStep<'_>, qkv: &Rows, _: &mut [State]) {
        self.kernels.store(qkv, step.keys.into(), step.values.into(), self.step_at(), step.layer);
    }

    fn attention(&self, step: &AttentionStep<'_>, queries: &Rows, _: &[State], out: &mut Rows) {
        self.kernels.resize(out, step.rows.len(), step.queries.count * step.value_length);
        let by = AttentionBy {
            queries: step.queries.into(),
            kv_heads: step.keys.count,
            value_width: step.value_length,
            scale: step.scale,
            window: step.window.unwrap_or(0),
            sinks: self.vector(step.sinks),
            layer: step.layer,
            values_in_keys: step.values.width == 0,
        };
        let mut parts = self.take_scratch();
        self.kernels.attention(queries, by, self.step_at(), &mut parts, out);
        self.give_scratch(parts);
    }

    fn convolve(&self, step: &ConvStep<'_>, x: &mut Rows, _: &mut [State]) {
        self.convolve_rows(step, x);
    }

    fn scan(&self, step: &ScanStep<'_>, x: &Rows, _: &mut [State], out: &mut Rows) {
        self.scan_rows(step, x, out);
    }

    fn multiply_span(&self, factor: Factor, x: &Rows, from: Span, out: &mut Rows, to: Span) {
        self.kernels.multiply_span(recurrent::number_of(factor), x, from.into(), out, to.into());
    }

    fn copy_within(&self, x: &mut Rows, from: Span, to: Span) {
        self.kernels.copy_within(x, from.into(), to.into());
    }

    fn activate(&self, activation: Activation, gate: Option<&Rows>, up: &mut Rows) {
        self.kernels.activate(activation, gate, up);
    }

    fn route(
        &self,
        (experts, router): (&Shape, &Router),
        drop: bool,
        (_, logits): (&[Row], &Rows),
        routing: &mut DeviceRouting,
    ) {
        let Shape { expert_count, expert_used_count, groups, threshold, .. } = *experts;
        let rows = logits.rows();
        self.kernels.ok(routing.resize(self.device(), rows, expert_used_count, expert_count));
        let capacity = experts.capacity.filter(|_| drop);
        let by = RouteBy {
            experts: expert_count,
            gating: match experts.gating {
                Gating::Softmax => 0,
                Gating::Sigmoid => 1,
                Gating::SoftmaxChosen => 2,
                Gating::SqrtSoftplus => unreachable!("refused when the model was opened"),
            },
            groups: groups.map_or(0, |groups| groups.count),
            groups_used: groups.map_or(0, |groups| groups.used),
            groups_counted: groups.map_or(0, |groups| groups.counted),
            normalise: experts.normalise,
            scale: experts.scale,
            threshold: if capacity.is_some() { 0.0 } else { threshold },
            expert_scale: self.vector(router.expert_scale.as_ref()),
        };
        self.kernels.route(logits, self.vector(router.choice_bias.as_ref()), by, routing.at());
        if let Some(capacity) = capacity {
            let most = capacity_of(expert_used_count, capacity.factor, rows, expert_count);
            self.kernels.route_capacity(routing.at(), expert_count, most, threshold);
        }
    }

    fn ask<'s>(
        &self,
        store: &'s ExpertStore,
        layer: usize,
        routing: &DeviceRouting,
    ) -> Result<DeviceTurn<'s>> {
        let mut bank = lock(&self.bank);
        if bank.holds_all(layer) {
            return Ok(DeviceTurn(None));
        }
        self.kernels.take_failure()?;
        let chosen = routing.experts(self.device())?;
        let mut wanted: Vec<u32> = chosen.iter().filter_map(|&expert| u32::try_from(expert).ok()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let missing = bank.begin(layer, &wanted);
        if missing.is_empty() {
            return Ok(DeviceTurn(None));
        }
        let mut dispatch = Dispatch::default();
        let expert = |slot: usize| u32::try_from(chosen[slot]).ok().filter(|expert| missing.contains(expert));
        dispatch.sort(routing.experts, routing.used, chosen.len(), expert);
        let turn = store.turn(layer, routing.rows, &dispatch)?;
        let routing = Routing::of(routing.used, routing.experts, &chosen, &vec![0.0; chosen.len()]);
        Ok(DeviceTurn(Some(Away { turn, routing })))
    }

    fn collect<O: Observe>(
        &self,
        turn: DeviceTurn<'_>,
        mut step: ExpertStep<'_, Self>,
        observe: &mut O,
    ) -> Result<()> {
        self.size_slots(&mut step);
        // Before the card begins, so that both compute at once.
        let host = turn.0.as_ref().map(|_| self.host_for(&step, O::ACTIVE)).transpose()?.flatten();
        let addresses = lock(&self.bank).addresses(step.layer);
        let choices = self.kernels.sorted(step.routing.at(), step.routing.experts);
        self.compute_experts(&mut step, (choices, addresses))?;
        if let Some(away) = turn.0 {
            self.compute_missing(away, host, &mut step, choices)?;
        }
        if O::ACTIVE {
            self.show_experts(&step, observe)?;
        }
        self.kernels.combine(step.added, &step.hidden.out, step.routing.at());
        Ok(())
    }

    fn weigh_by_sigmoid(&self, gate: &Linear, x: &mut Rows, out: &mut Rows) {
        let mut weights = self.take_scratch();
        self.kernels.resize(&mut weights, x.rows(), 1);
        self.linear(gate, x, &mut weights, 0);
        self.kernels.weigh_by_sigmoid(&weights, out);
        self.give_scratch(weights);
    }

    fn add(&self, x: &mut Rows, added: &Rows, scale: f32) {
        self.kernels.add(x, added, scale);
    }

    fn select(&self, _: &[Row], x: &Rows, out: &mut Rows) {
        let places = self.places();
        self.kernels.resize(out, places.selected_count, x.width());
        self.kernels.select_rows(x, places.selected, out);
    }

    fn scale(&self, x: &mut Rows, factor: f32) {
        self.kernels.scale(x, factor);
    }

    fn cap(&self, x: &mut Rows, cap: f32) {
        self.kernels.cap(x, cap);
    }
}
