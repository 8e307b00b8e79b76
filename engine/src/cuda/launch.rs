//! Starts kernels: a function for each, the only place besides `join.rs` that knows their arguments.
//!
//! Nothing here returns an error: the first failure stays until [`Kernels::take_failure`], and nothing is started after it.
//! Shapes are the callers' matter, who check them once when weights are bound; places that a step of rows gets wrong are
//! asserted.

use super::arguments::{Argument, AttentionBy, ChoicesAt, MatrixAt, NormAt, Pieces, RouteBy, StepAt};
use super::kernels::Kernels;
use super::rows::Rows;
use super::written::{ExpertProduct, Product, What};
use crate::ops::Activation;
use crate::quant::{Format, Grain, shape_of};

/// Threads of a block.
const THREADS: usize = 128;
/// Tokens of a strand of logits, and those that a row of [`Kernels::best`] has room for.
const STRAND: usize = 32;
const BEST: usize = 120;
/// Bytes of shared memory: as `*_SHARED` in the sources.
pub(super) const NORM_SHARED: usize = 32;
const BEST_SHARED: usize = 48 + 8 * BEST;
pub(super) const fn route_shared(experts: usize) -> usize {
    experts * 20
}
const fn capacity_shared(experts: usize) -> usize {
    experts * 4 + THREADS * 4
}
const fn attention_shared(key_width: usize, value_width: usize) -> usize {
    (key_width + 128 + 8 + 2 * value_width) * 4
}

/// Positions that a block of attention takes where a head has several: `CHUNK` in the source.
pub const CHUNK: usize = 1024;

/// What a fetched row of [`Kernels::best`] says: ids, scores, the bound that they reach, and the sum of all weights. `None`
/// where there was no room.
pub fn tokens_of(row: &[f32]) -> Option<(&[u32], &[f32], f32, f32)> {
    let (head, tokens) = row.split_at(4);
    let (ids, scores) = tokens.split_at(BEST);
    let count = head[0].to_bits() as usize;
    Some((bytemuck::cast_slice(ids.get(..count)?), &scores[..count], head[1], head[2]))
}

/// Rows of a matrix that a block has, and inputs that it takes at once.
const ROWS: usize = 32;
const INPUTS: usize = 4;
/// Of the products of a format: a term for 1024 groups (`Tiles` in the source), for floats the sums of lanes.
pub(super) fn products_shared(format: &Format) -> usize {
    shape_of(format)
        .map_or(ROWS * 33 * 4, |shape| 1024 * (32 / shape.group) * if shape.has_min { 16 } else { 8 })
}

/// Of a product that makes its inputs itself: `DECODE_SHARED`.
pub(super) fn decode_shared(format: &Format, cols: usize) -> usize {
    let inputs = if shape_of(format).is_some() { cols * 3 / 2 } else { cols * 4 };
    products_shared(format) + NORM_SHARED + inputs
}

macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { &[$(Argument::from($argument)),*] };
}
pub(super) use arguments;

impl Kernels {
    pub(super) fn step(
        &self,
        name: &str,
        grid: (usize, usize),
        shared: usize,
        arguments: &[Argument],
        what: What,
    ) {
        self.run(self.modules().step(name), grid, shared, arguments, what);
    }

    /// Gives rows another shape.
    pub fn resize(&self, x: &mut Rows, rows: usize, width: usize) {
        self.ok(x.resize(self.device(), rows, width));
    }

    /// Rows of a table of weights, one for each index, times `scale`, in place of `out` or added to it.
    pub fn embed(&self, table: MatrixAt, indices: u64, scale: f32, is_added: bool, out: &mut Rows) {
        let rows = out.rows();
        let a = arguments![
            table.bytes,
            table.rows,
            table.cols,
            table.is_panels,
            self.points(table.format),
            indices,
            scale,
            is_added,
            out.address()
        ];
        let own = [out.address()];
        let what = What::other(if is_added { &own } else { &[] }, &own);
        self.run(&self.modules().products(table.format).embed, (rows, 1), 0, a, what);
        out.touch();
    }

    /// Normalised rows.
    pub fn norm(&self, norm: NormAt, x: &Rows, out: &mut Rows) {
        let NormAt { weight, bias, epsilon, is_layer_norm } = norm;
        let a = arguments![x.address(), weight, bias, epsilon, is_layer_norm, out.address(), x.width()];
        let what = What::Norm { norm, x: x.address(), out: out.address() };
        self.step("norm_rows", (x.rows(), 1), NORM_SHARED, a, what);
        out.touch();
    }

    /// `x += added * scale`.
    pub fn add(&self, x: &mut Rows, added: &Rows, scale: f32) {
        let a = arguments![x.address(), added.address(), scale, x.width()];
        let what = What::Add { x: x.address(), added: added.address(), scale };
        self.step("add", (x.rows(), 1), 0, a, what);
        x.touch();
    }

    /// `x *= factor`.
    pub fn scale(&self, x: &mut Rows, factor: f32) {
        let what = What::other(&[x.address()], &[x.address()]);
        self.step("scale", (x.rows(), 1), 0, arguments![x.address(), factor, x.width()], what);
        x.touch();
    }

    /// `x = most * tanh(x / most)`.
    pub fn cap(&self, x: &mut Rows, most: f32) {
        let what = What::other(&[x.address()], &[x.address()]);
        self.step("cap", (x.rows(), 1), 0, arguments![x.address(), most, x.width()], what);
        x.touch();
    }

    /// Zeros.
    pub fn clear(&self, x: &mut Rows) {
        let what = What::Clear { x: x.address() };
        self.step("clear", (x.rows(), 1), 0, arguments![x.address(), x.width()], what);
        x.touch();
    }

    /// The rows of these numbers.
    pub fn select_rows(&self, x: &Rows, numbers: u64, out: &mut Rows) {
        let a = arguments![x.address(), numbers, out.address(), x.width()];
        let what = What::other(&[x.address()], &[out.address()]);
        self.step("select_rows", (out.rows(), 1), 0, a, what);
        out.touch();
    }

    /// The best tokens of each row of logits, at its temperature: see `best` in the sources. [`tokens_of`]
    /// tells what is in a row.
    pub fn best(&self, logits: &Rows, temperatures: u64, tops: &mut Rows, best: &mut Rows) {
        let (rows, strands) = (logits.rows(), logits.width().div_ceil(STRAND));
        self.resize(tops, rows, 2 * strands);
        self.resize(best, rows, 4 + 2 * BEST);
        let a = arguments![logits.address(), temperatures, tops.address(), logits.width()];
        let what = What::other(&[logits.address()], &[tops.address()]);
        self.step("strand_tops", (rows, strands.div_ceil(THREADS)), 0, a, what);
        let a = arguments![logits.address(), temperatures, tops.address(), best.address(), logits.width()];
        let what = What::other(&[logits.address(), tops.address()], &[best.address()]);
        self.step("best", (rows, 1), BEST_SHARED, a, what);
        best.touch();
    }

    /// The activation between up and down, in place in `up`.
    pub fn activate(&self, activation: Activation, gate: Option<&Rows>, up: &mut Rows) {
        let a = arguments![gate.map_or(0, Rows::address), up.address(), kind_of(activation), up.width()];
        let what = What::Activate {
            gate: gate.map_or(0, Rows::address),
            up: up.address(),
            kind: kind_of(activation),
            choices: None,
        };
        self.step("activate", (up.rows(), 1), 0, a, what);
        up.touch();
    }

    /// The same for the slots of experts that have an address.
    pub fn activate_slots(
        &self,
        activation: Activation,
        gate: Option<&Rows>,
        up: &mut Rows,
        choices: ChoicesAt,
        addresses: u64,
    ) {
        let a = arguments![
            gate.map_or(0, Rows::address),
            up.address(),
            kind_of(activation),
            up.width(),
            choices.choices,
            addresses
        ];
        let what = What::Activate {
            gate: gate.map_or(0, Rows::address),
            up: up.address(),
            kind: kind_of(activation),
            choices: Some(choices.choices),
        };
        self.step("activate_slots", (up.rows(), 1), 0, a, what);
        up.touch();
    }

    /// `out *= sigmoid(weight)`, a weight a row.
    pub fn weigh_by_sigmoid(&self, weights: &Rows, out: &mut Rows) {
        let a = arguments![weights.address(), out.address(), out.width()];
        let what = What::other(&[weights.address(), out.address()], &[out.address()]);
        self.step("weigh_by_sigmoid", (out.rows(), 1), 0, a, what);
        out.touch();
    }

    /// Inputs as a product wants them: values, codes, extras.
    fn inputs(&self, format: &Format, x: &mut Rows) -> [u64; 3] {
        let Some(grain) = shape_of(format).map(|shape| shape.inputs) else { return [x.address(), 0, 0] };
        let coded = x.coded(self.device(), grain);
        let Some((codes, extras, is_current)) = self.ok(coded) else { return [0; 3] };
        if !is_current {
            let is_coarse = grain == Grain::Coarse;
            let a = arguments![x.address(), x.width(), is_coarse, codes, extras];
            let what = What::Quantize { x: x.address(), codes };
            self.step("quantize", (x.rows(), 1), 0, a, what);
        }
        [x.address(), codes, extras]
    }

    /// `out[.., at..] = x * matrix + bias`, where the bias has an address.
    pub fn multiply(&self, matrix: MatrixAt, bias: u64, x: &mut Rows, out: &mut Rows, at: usize) {
        assert!(x.width() == matrix.cols && at + matrix.rows <= out.width() && out.rows() == x.rows());
        let [values, codes, extras] = self.inputs(matrix.format, x);
        let rows = x.rows();
        let (out_at, out_width) = (out.address(), out.width());
        out.touch();
        let product = Product { matrix, bias, x: x.address(), codes, rows, out: out_at, out_width, at };
        if self.multiply_in_tiles(product, extras) {
            return;
        }
        let a = arguments![
            matrix.bytes,
            matrix.rows,
            matrix.cols,
            matrix.is_panels,
            self.points(matrix.format),
            values,
            codes,
            extras,
            rows,
            bias,
            out_at,
            out_width,
            at
        ];
        let at_once = if codes == 0 { 1 } else { INPUTS };
        let grid = (matrix.rows.div_ceil(ROWS), rows.div_ceil(at_once));
        let kernel = &self.modules().products(matrix.format).products;
        self.run(kernel, grid, products_shared(matrix.format), a, What::Product(product));
    }

    /// A matrix for each piece of the rows; `heads` are the addresses of these of the shape and format of `matrix`.
    pub fn multiply_heads(
        &self,
        (matrix, heads): (MatrixAt, u64),
        x: &Rows,
        from: Pieces,
        out: &mut Rows,
        to: Pieces,
    ) {
        assert!(from.width == matrix.cols && to.width == matrix.rows && from.count == to.count);
        let a = arguments![
            x.address(),
            x.width(),
            from.at,
            from.stride,
            heads,
            from.count,
            matrix.rows,
            matrix.cols,
            matrix.is_panels,
            self.points(matrix.format),
            out.address(),
            out.width(),
            to.at,
            to.stride
        ];
        let kernel = &self.modules().products(matrix.format).head_products;
        let grid = (matrix.rows.div_ceil(ROWS), x.rows() * from.count);
        let shared = decode_shared(matrix.format, matrix.cols);
        let what = What::other(&[x.address(), out.address()], &[out.address()]);
        self.run(kernel, grid, shared, a, what);
        out.touch();
    }

    /// The products of experts that have an address, a slot for each choice; `which` is 0 for gate, 1 up, 2 down.
    pub fn multiply_experts(
        &self,
        (matrix, which, bias): (MatrixAt, usize, u64),
        choices: ChoicesAt,
        addresses: u64,
        x: &mut Rows,
        out: &mut Rows,
    ) {
        let slots = choices.rows * choices.used;
        assert!(x.width() == matrix.cols && out.width() == matrix.rows && out.rows() == slots);
        assert!(x.rows() == if which == 2 { slots } else { choices.rows });
        let [values, codes, extras] = self.inputs(matrix.format, x);
        let (x, out_at) = (x.address(), out.address());
        out.touch();
        let product = ExpertProduct { matrix, which, bias, choices, addresses, x, codes, out: out_at };
        if self.multiply_experts_in_tiles(product, extras) {
            return;
        }
        let a = arguments![
            addresses,
            which,
            choices.choices,
            choices.used,
            which == 2,
            matrix.rows,
            matrix.cols,
            matrix.is_panels,
            self.points(matrix.format),
            values,
            codes,
            extras,
            bias,
            out_at
        ];
        let grid = (matrix.rows.div_ceil(ROWS), slots);
        let kernel = &self.modules().products(matrix.format).experts;
        self.run(kernel, grid, products_shared(matrix.format), a, What::ExpertProduct(product));
    }

    /// Chooses experts from router logits.
    pub fn route(&self, logits: &Rows, bias: u64, by: RouteBy, to: ChoicesAt) {
        let a = [arguments![logits.address(), bias, by.experts], &choice_arguments(&by, to)[..]].concat();
        let what = What::Route { logits: logits.address(), bias, by, to };
        self.step("route", (to.rows, 1), route_shared(by.experts), &a, what);
    }

    /// Leaves out what exceeds an expert's capacity.
    pub fn route_capacity(&self, to: ChoicesAt, experts: usize, capacity: usize, threshold: f32) {
        let a = arguments![to.choices, to.scores, to.rows, experts, to.used, capacity, threshold];
        let what = What::other(&[to.choices, to.scores], &[to.choices, to.scores]);
        self.step("route_capacity", (1, 1), capacity_shared(experts), a, what);
    }

    /// Adds the kept slots of each row, the strongest choice first.
    pub fn combine(&self, added: &mut Rows, slots: &Rows, choices: ChoicesAt) {
        assert!(added.width() == slots.width());
        let a = arguments![
            added.address(),
            slots.address(),
            choices.choices,
            choices.scores,
            choices.used,
            added.width()
        ];
        let what = What::Combine { added: added.address(), slots: slots.address(), choices };
        self.step("combine", (added.rows(), 1), 0, a, what);
        added.touch();
    }

    /// Writes keys and values into the sequences' pages.
    pub fn store(&self, qkv: &Rows, keys: Pieces, values: Pieces, step: StepAt, layer: usize) {
        let a = arguments![
            qkv.address(),
            qkv.width(),
            keys.at,
            keys.count,
            keys.width,
            values.at,
            values.width,
            step.positions,
            step.sequences,
            step.tables,
            layer,
            step.max_pages,
            step.cache_format
        ];
        let what = What::Store {
            qkv: qkv.address(),
            width: qkv.width(),
            rows: qkv.rows(),
            keys,
            values,
            step,
            layer,
        };
        self.step("store", (qkv.rows(), keys.count), 0, a, what);
    }

    /// Attention of the rows over their sequences. `parts` is room for what the blocks of a head find, where it has several.
    pub fn attention(&self, queries: &Rows, by: AttentionBy, step: StepAt, parts: &mut Rows, out: &mut Rows) {
        let AttentionBy { queries: q, kv_heads, value_width, scale, window, sinks, layer, values_in_keys } =
            by;
        let arrived = self.counters(out.rows() * q.count).filter(|_| step.chunks > 1);
        let chunks = if arrived.is_some() { step.chunks } else { 1 };
        let room = if chunks > 1 { chunks * (2 + value_width) } else { 0 };
        self.resize(parts, out.rows() * q.count, room);
        let a = arguments![
            queries.address(),
            queries.width(),
            q.at,
            q.count,
            q.width,
            q.stride,
            kv_heads,
            value_width,
            scale,
            window,
            sinks,
            step.positions,
            step.sequences,
            step.tables,
            layer,
            step.max_pages,
            values_in_keys,
            step.cache_format,
            chunks,
            parts.address(),
            arrived.unwrap_or(0),
            out.address()
        ];
        let what = What::other(&[queries.address()], &[out.address(), parts.address()]);
        let grid = (out.rows(), q.count * chunks);
        self.step("attention", grid, attention_shared(q.width, value_width), a, what);
        out.touch();
    }
}

/// The kernel's number of an activation.
pub fn kind_of(activation: Activation) -> i32 {
    match activation {
        Activation::Silu => 0,
        Activation::GeluErf => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
        Activation::SwigluOai => 4,
        Activation::ReluSquared => 5,
        Activation::SwigluClamped(_) => unreachable!("refused when the model was opened"),
    }
}

/// How a row's experts are chosen and where they go: what kernels that choose end with.
pub(super) fn choice_arguments(by: &RouteBy, to: ChoicesAt) -> [Argument; 11] {
    *arguments![
        to.used,
        by.gating,
        by.groups,
        by.groups_used,
        by.groups_counted,
        by.normalise,
        by.scale,
        by.threshold,
        by.expert_scale,
        to.choices,
        to.scores
    ]
}
